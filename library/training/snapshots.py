"""A copy, in main memory, of what an update changes: the network's weights and the optimizer's state."""

from collections import Counter
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

PIECE = 2**24  # numbers


class Snapshot:
    """The state of a network and its optimizer at one moment. Costs main memory only: weights and state once."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, global_step: int):
        self.global_step = global_step
        self._parameters = list(network.parameters())
        self._weights, self._optimizer = on_host((self._parameters, optimizer.state_dict()))

    @torch.no_grad()
    def restore(self, optimizer: torch.optim.Optimizer) -> None:
        """Puts weights and state back where they were."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # the copies may still be on their way
        for parameter, weight in zip(self._parameters, self._weights, strict=True):
            parameter.copy_(weight)
        optimizer.load_state_dict(on_host(self._optimizer))


def on_host(value):
    """A copy of nested dicts, lists and tuples with all tensors copied to main memory; those of a GPU arrive later.

    These share large pieces of pinned memory, as the system takes seconds to pin thousands of small ones.
    """
    numbers = Counter()
    for tensor in tensors_in(value):
        if tensor.is_cuda:
            numbers[tensor.dtype] += tensor.numel()
    rooms = {dtype: Rooms(dtype, count) for dtype, count in numbers.items()}
    return mapped(value, lambda tensor: rooms[tensor.dtype].copy_of(tensor) if tensor.is_cuda else tensor.detach().to("cpu", copy=True))


class Rooms:
    """Pinned memory for so many numbers, in pieces that are filled one after the other.

    torch rounds each piece up to a power of two, so they are one, but for the last.
    """

    def __init__(self, dtype: torch.dtype, numbers: int):
        self._dtype = dtype
        self._left = numbers
        self._piece = torch.empty(0, dtype=dtype)
        self._taken = 0

    def copy_of(self, tensor: Tensor) -> Tensor:
        """A copy that lies like the tensor."""
        if self._taken + tensor.numel() > self._piece.numel():
            self._piece, self._taken = pinned(max(tensor.numel(), min(PIECE, self._left)), self._dtype), 0
        strides = torch.empty_like(tensor, device="meta").stride()
        place = self._piece.as_strided(tensor.shape, strides, self._taken)
        self._taken += tensor.numel()
        self._left -= tensor.numel()
        return place.copy_(tensor.detach(), non_blocking=True)


def pinned(numbers: int, dtype: torch.dtype) -> Tensor:
    """Memory that a GPU writes to by itself; other memory where the system pins no more, which is slower and no worse."""
    try:
        return torch.empty(numbers, dtype=dtype, pin_memory=True)
    except RuntimeError:
        return torch.empty(numbers, dtype=dtype)


def tensors_in(value) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from (tensor for item in value.values() for tensor in tensors_in(item))
    elif isinstance(value, list | tuple):
        yield from (tensor for item in value for tensor in tensors_in(item))


def mapped(value, change: Callable[[Tensor], Tensor]):
    """The same with each tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mapped(item, change) for item in value)
    return value
