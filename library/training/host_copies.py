"""Values on their way from a GPU to the host: what is read one step late must not wait for the work that was queued since.

`float(tensor)` and `tensor.tolist()` wait for everything that the GPU still has to do, however old the tensor is. A copy that was
sent when the value was made, with an event behind it, waits for no more than that copy.
"""

import torch
from torch import Tensor


class HostCopy:
    """A copy of `tensor` in main memory, sent now and read later."""

    def __init__(self, tensor: Tensor):
        tensor = tensor.detach()
        self._arrived = None
        if tensor.device.type == "cuda":
            self._values = tensor.to("cpu", non_blocking=True)  # into pinned memory
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._values = tensor.to("cpu", copy=True)  # what it was copied from may be overwritten by then

    def read(self) -> Tensor:
        """The values, on the CPU; waits until they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
            self._arrived = None
        return self._values
