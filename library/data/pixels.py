"""From the bytes of an image, uint8 (H, W, 3) or (H, W, 4) with alpha, to tensors in -1..1."""

import numpy as np
import torch
from torch import Tensor


def to_bytes(image: np.ndarray) -> Tensor:
    """Colours as (3, H, W) uint8; an alpha channel is left out."""
    return torch.from_numpy(np.ascontiguousarray(image[:, :, :3])).permute(2, 0, 1).contiguous()


def colors(pixels: Tensor) -> Tensor:
    """Bytes as float32 in -1..1, to the same bit on every device; floats are taken for that already.

    GPUs divide by a number by multiplying with its reciprocal, which is rounded: they look the 256 values up.
    """
    if pixels.is_floating_point():
        return pixels
    if pixels.device.type == "cpu":
        return pixels.float().div_(255).sub_(0.5).div_(0.5)
    return colors(torch.arange(256, dtype=torch.uint8)).to(pixels.device, non_blocking=True)[pixels.int()]


def to_tensor(image: np.ndarray) -> Tensor:
    """Colours as (3, H, W) float32 in -1..1; an alpha channel is left out."""
    return colors(to_bytes(image))


def alpha_tensor(image: np.ndarray) -> Tensor:
    """The alpha channel as (H, W) float32 in 0..1; ones when the image has none."""
    if image.shape[2] < 4:
        return torch.ones(image.shape[:2])
    return torch.from_numpy(image[:, :, 3].astype(np.float32) / 255)
