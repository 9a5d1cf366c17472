"""Work on tensors recorded once and replayed: on CUDA a forward and a backward pass become one launch each (--cuda_graph auto).

At batch 1 a GPU waits for Python, which launches thousands of small kernels for each step. A CUDA graph launches them all at once, from
and to fixed places in memory: inputs are copied in, and what comes out is overwritten by the next replay of any recording.
"""

import contextlib
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

    def __init__(self, leaves: "Leaves", record: Record, *, part: str = "a part of the step"):
        """record: runs or captures a function, see `cuda_recorder`. part: what is recorded, in messages."""
        self.leaves = leaves
        self.recordings: dict[tuple, Recording | None] = {}
        self._record = record
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
            return self._as_usual(compute, inputs)
        if self.recordings[key] is None:
            self.recordings[key] = self._recorded(compute, inputs)
        recording = self.recordings[key]
        return compute(inputs) if recording is None else recording(inputs)

    def _as_usual(self, compute: Compute, inputs: Named) -> Named:
        """What a shape gets when it comes for the first time; recordings give way to it where they have taken all memory."""
        try:
            return compute(inputs)
        except torch.OutOfMemoryError:
            if not any(self.recordings.values()):
                raise
        self._give_up("the GPU's memory does not hold the recordings of several bucket shapes")
        return compute(inputs)

    def _recorded(self, compute: Compute, inputs: Named) -> "Recording | None":
        try:
            return Recording(compute, inputs, self.leaves, self._record)
        except RuntimeError as error:  # CUDA's refusals, and what PyTorch says of an operation that cannot be captured
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        self._give_up(reason)
        return None

    def _give_up(self, reason: str) -> None:
        self._works = False
        self.recordings.clear()
        if torch.cuda.is_available():
            with contextlib.suppress(RuntimeError):  # a capture that was broken off may still count as one
                torch.cuda.empty_cache()
        logger.warning("--cuda_graph auto: %s runs as usual, a little slower, as it could not be recorded (%s)", self._part, reason)


class Leaves:
    """Tensors besides the inputs that may get gradients: the same ones, in the same memory, in all calls.

    All recordings write a leaf's gradient to one place, which lies like the leaf itself, as optimizers expect.
    keeps_gradients: gradients outlive the next call, as where they are added up.
    """

    def __init__(self, tensors: Sequence[Tensor], *, keeps_gradients: bool = False):
        self.tensors = [tensor for tensor in tensors if tensor.requires_grad]
        self.places: list[Tensor] = []
        self._keeps_gradients = keeps_gradients

    def make_places(self) -> None:
        """To be called outside of recordings, whose memory is used again for other things."""
        self.places = self.places or [torch.zeros_like(tensor) for tensor in self.tensors]

    def hand_out(self, used: Sequence[int]) -> None:
        """Gives the leaves of these numbers their gradients, which autograd would do one node at a time."""
        for number in used:
            leaf, place = self.tensors[number], self.places[number]
            if leaf.grad is None:
                leaf.grad = place.clone() if self._keeps_gradients else place
            elif leaf.grad is not place:
                leaf.grad.add_(place)


class Recording:
    """One set of shapes: where its inputs, its outputs and their gradients lie, and how to compute them anew."""

    def __init__(self, compute: Compute, inputs: Named, leaves: Leaves, record: Record):
        self.inputs = {name: tensor.detach().clone().requires_grad_(tensor.requires_grad) for name, tensor in inputs.items()}
        self.leaves = leaves
        self.names: list[str] = []
        self._answers: list[Tensor] = []
        self._anchor = torch.zeros((), requires_grad=True)
        self._used: list[int] = []  # leaves that get a gradient
        leaves.make_places()

        def forward() -> list[Tensor]:
            answers = compute(self.inputs)
            self.names, self._answers = list(answers), list(answers.values())
            return self._answers

        outputs, self.replay_forward = record(forward)
        self.outputs = [output.detach() for output in outputs]
        self.trains = [answer.requires_grad for answer in self._answers]
        self.output_gradients = [torch.zeros_like(output) for output, trains in zip(self.outputs, self.trains, strict=True) if trains]
        self.input_gradients, self.replay_backward = record(self._backward) if any(self.trains) else ((), None)
        self._answers = []

    def _backward(self) -> tuple[Tensor | None, ...]:
        """Puts the leaves' gradients into their places and returns those of the inputs."""
        wanted = [answer for answer in self._answers if answer.requires_grad]
        own = [tensor for tensor in self.inputs.values() if tensor.requires_grad]
        found = torch.autograd.grad(wanted, [*own, *self.leaves.tensors], self.output_gradients, allow_unused=True)
        of_leaves = found[len(own) :]
        self._used = [number for number, gradient in enumerate(of_leaves) if gradient is not None]
        if self._used:
            torch._foreach_copy_([self.leaves.places[number] for number in self._used], [of_leaves[number] for number in self._used])
        return found[: len(own)]

    def __call__(self, inputs: Named) -> Named:
        return dict(zip(self.names, _Replayed.apply(self, self._anchor, *inputs.values()), strict=True))

    def take_in(self, inputs: Sequence[Tensor]) -> None:
        """Puts the values of new inputs where the recording reads them."""
        for place, tensor in zip(self.inputs.values(), inputs, strict=True):
            place.detach().copy_(tensor, non_blocking=True)

    def hand_out(self) -> list[Tensor | None]:
        """Gives the leaves their gradients and returns those of the inputs."""
        self.leaves.hand_out(self._used)
        gradients = iter(self.input_gradients)
        return [next(gradients) if tensor.requires_grad else None for tensor in self.inputs.values()]


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
    # nodes of autograd that somebody keeps from an earlier step belong to another stream; newer versions of torch can overlook that
    getattr(torch.autograd.graph, "set_override_stale_capture_stream", lambda enabled: None)(True)

    def record(work: Callable) -> tuple[object, Replay]:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # "thread_local": other threads, which pin batches in memory, may go on with theirs
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                result = work()
        except RuntimeError:
            undo_capture(graph, pool, stream)
            raise
        return result, graph.replay

    return record


def undo_capture(graph: torch.cuda.CUDAGraph, pool: tuple[int, int], stream: torch.cuda.Stream) -> None:
    """Puts right what torch leaves behind when CUDA refuses a capture: its stream, its pool of memory and the random state's mark."""
    torch.cuda.set_stream(stream)
    generator = torch.cuda.default_generators[stream.device_index]
    generator.graphsafe_set_state(generator.clone_state())  # a state that knows of no capture
    try:
        graph.pool()
    except RuntimeError:  # the capture never came to an end, so nobody has closed the pool
        for close in (torch._C._cuda_endAllocateToPool, torch._C._cuda_releasePool):
            with contextlib.suppress(RuntimeError):
                close(stream.device_index, pool)
