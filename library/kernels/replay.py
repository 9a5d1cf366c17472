"""Work on tensors recorded once and replayed: on CUDA a forward and a backward pass become one launch each (--cuda_graph auto).

At batch 1 a GPU waits for Python, which launches thousands of small kernels for each step. A CUDA graph launches them all at once, from
and to fixed places in memory: inputs are copied in, and what comes out is overwritten by the next replay of any recording.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

logger = logging.getLogger(__name__)

MOST_RECORDINGS = 32  # sets of shapes; each costs seconds and some memory for the graph itself, the activations' memory is shared

Named = dict[str, Tensor]
Compute = Callable[[Named], Named]
Replay = Callable[[], object]
Record = Callable[[Callable], tuple[object, Replay]]


class Replays:
    """Answers by recordings, one for each set of input shapes, made at the second call with it: the first lets libraries choose kernels.

    What is asked for without gradients is computed as usual. Where recording fails, this is told in a line and all goes on without.
    """

    def __init__(self, leaves: Sequence[Tensor], record: Record, *, keeps_gradients: bool = False, part: str = "a part of the step"):
        """leaves: tensors besides the inputs that may get gradients; the same ones, in the same memory, in all calls.

        record: runs or captures a function, see `cuda_recorder`. keeps_gradients: gradients outlive the next call (accumulation).
        part: what is recorded, in messages.
        """
        self.leaves = [leaf for leaf in leaves if leaf.requires_grad]
        self.recordings: dict[tuple, Recording | None] = {}
        self._record = record
        self._keeps_gradients = keeps_gradients
        self._part = part
        self._works = True

    def __call__(self, compute: Compute, inputs: Named) -> Named:
        """compute(inputs), a function of the inputs, of the leaves and of the device's random state alone."""
        if not self._works or not torch.is_grad_enabled():
            return compute(inputs)
        key = tuple((name, tensor.shape, tensor.dtype, tensor.requires_grad) for name, tensor in inputs.items())
        if key not in self.recordings:
            if len(self.recordings) < MOST_RECORDINGS:
                self.recordings[key] = None
            return compute(inputs)
        if self.recordings[key] is None:
            self.recordings[key] = self._recorded(compute, inputs)
        recording = self.recordings[key]
        return compute(inputs) if recording is None else recording(inputs)

    def _recorded(self, compute: Compute, inputs: Named) -> "Recording | None":
        try:
            return Recording(compute, inputs, self.leaves, self._record, self._keeps_gradients)
        except RuntimeError as error:  # CUDA's refusals, and what PyTorch says of an operation that cannot be captured
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        self._works = False
        self.recordings.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning("--cuda_graph auto: %s runs as usual, a little slower, as it could not be recorded (%s)", self._part, reason)
        return None


class Recording:
    """One set of shapes: where its inputs, its outputs and its gradients lie, and how to compute them anew."""

    def __init__(self, compute: Compute, inputs: Named, leaves: Sequence[Tensor], record: Record, keeps_gradients: bool):
        self.inputs = {name: tensor.detach().clone().requires_grad_(tensor.requires_grad) for name, tensor in inputs.items()}
        self.leaves = leaves
        self.keeps_gradients = keeps_gradients
        self._answers: list[Tensor] = []
        self._anchor = torch.zeros((), requires_grad=True)
        self.names: list[str] = []

        def forward() -> list[Tensor]:
            answers = compute(self.inputs)
            self.names, self._answers = list(answers), list(answers.values())
            return self._answers

        def backward() -> tuple[Tensor | None, ...]:
            trained = [*(tensor for tensor in self.inputs.values() if tensor.requires_grad), *leaves]
            wanted = [answer for answer in self._answers if answer.requires_grad]
            return torch.autograd.grad(wanted, trained, self.output_gradients, allow_unused=True)

        outputs, self.replay_forward = record(forward)
        self.outputs = [output.detach() for output in outputs]
        self.trains = [answer.requires_grad for answer in self._answers]
        self.output_gradients = [torch.zeros_like(output) for output, trains in zip(self.outputs, self.trains, strict=True) if trains]
        self.gradients, self.replay_backward = record(backward) if any(self.trains) else ((), None)
        self._answers = []

    def __call__(self, inputs: Named) -> Named:
        return dict(zip(self.names, _Replayed.apply(self, self._anchor, *inputs.values()), strict=True))

    def take_in(self, inputs: Sequence[Tensor]) -> None:
        """Puts the values of new inputs where the recording reads them."""
        for place, tensor in zip(self.inputs.values(), inputs, strict=True):
            place.detach().copy_(tensor, non_blocking=True)

    def hand_out(self) -> list[Tensor | None]:
        """Gives the leaves their gradients, which autograd would do one node at a time, and returns those of the inputs."""
        gradients = iter(self.gradients)
        of_inputs = [next(gradients) if tensor.requires_grad else None for tensor in self.inputs.values()]
        for leaf, gradient in zip(self.leaves, gradients, strict=True):
            if gradient is None:
                continue
            if leaf.grad is None:
                leaf.grad = gradient.clone() if self.keeps_gradients else gradient
            else:
                leaf.grad.add_(gradient)
        return of_inputs


class _Replayed(torch.autograd.Function):
    """The anchor is a tensor that wants a gradient and gets none: without one autograd would not come back here."""

    @staticmethod
    def forward(ctx, recording: Recording, anchor: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        recording.take_in(inputs)
        recording.replay_forward()
        ctx.recording = recording
        outputs = tuple(output.detach() for output in recording.outputs)
        ctx.mark_non_differentiable(*(output for output, trains in zip(outputs, recording.trains, strict=True) if not trains))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        wanted = [gradient for gradient, trains in zip(gradients, ctx.recording.trains, strict=True) if trains]
        torch._foreach_copy_(ctx.recording.output_gradients, wanted)
        ctx.recording.replay_backward()
        return None, None, *ctx.recording.hand_out()


def cuda_recorder() -> Record:
    """Captures CUDA graphs that share one pool of memory: at any time only one of them may be between its forward and its backward pass."""
    pool = torch.cuda.graph_pool_handle()

    def record(work: Callable) -> tuple[object, Replay]:
        graph = torch.cuda.CUDAGraph()
        # "thread_local": other threads, which pin batches in memory, may go on with theirs
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            result = work()
        return result, graph.replay

    return record
