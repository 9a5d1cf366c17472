"""A copy, in main memory, of what an update changes: the network's weights and the optimizer's state."""

import torch
from torch import Tensor, nn


class Snapshot:
    """The state of a network and its optimizer at one moment. Costs main memory only: weights and state once."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, global_step: int):
        self.global_step = global_step
        self._weights = [(parameter, on_host(parameter.detach())) for parameter in network.parameters()]
        self._optimizer = on_host(optimizer.state_dict())

    @torch.no_grad()
    def restore(self, optimizer: torch.optim.Optimizer) -> None:
        """Puts weights and state back where they were."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # the copies may still be on their way
        for parameter, weight in self._weights:
            parameter.copy_(weight)
        optimizer.load_state_dict(on_host(self._optimizer))


def on_host(value):
    """A copy of nested dicts, lists and tuples with all tensors copied to main memory; those of a GPU arrive later."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True, non_blocking=True)
    if isinstance(value, dict):
        return {key: on_host(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_host(item) for item in value)
    return value
