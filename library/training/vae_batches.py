"""How many images the VAE encodes at once: as asked for, or as many as fit into the GPU, and fewer when they do not."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 8
"""More at once is no faster: one image of 1024x1024 nearly fills a large GPU with work."""
BYTES_PER_PIXEL = 128 * 8
"""Of one image at its peak, for each byte of the dtype: about eight maps of 128 channels at full size."""


def vae_batch_size(asked: int, largest_bucket: int, dtype: torch.dtype, device: torch.device, *, strict_compat: bool) -> int:
    """`asked`; but 1, the default, means on a CUDA device as many as its free memory lets expect, up to MOST_AT_ONCE.

    largest_bucket: in pixels. strict_compat: always `asked`, as the VAE draws random numbers batch by batch.
    """
    if asked > 1 or strict_compat or device.type != "cuda":
        return asked
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return fitting(free, largest_bucket, dtype.itemsize)


def fitting(free_bytes: int, pixels: int, itemsize: int) -> int:
    """How many images of that many pixels can be expected to fit, 1 to MOST_AT_ONCE."""
    return max(1, min(MOST_AT_ONCE, free_bytes // max(1, pixels * itemsize * BYTES_PER_PIXEL)))


class EncodeInParts:
    """Encodes a batch in parts of `size` images and halves `size`, with a warning, when the GPU has no memory for that many."""

    def __init__(self, encode: Callable[[Tensor], Tensor], size: int):
        self.encode, self.size = encode, size

    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, h, w). Raises torch.cuda.OutOfMemoryError if not even one image fits."""
        while True:
            try:
                return torch.cat([self.encode(part) for part in pixels.split(self.size)])
            except torch.cuda.OutOfMemoryError:
                if self.size == 1:
                    raise
            self.size = max(1, min(self.size, len(pixels)) // 2)
            torch.cuda.empty_cache()    # after the except block, which holds on to the tensors of the failed call
            logger.warning("the GPU has too little memory for that many images at once: caching goes on with %d", self.size)
