"""One training batch as the data set hands it to the step."""

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from library.data.pixels import colors

SMALL = 2**19
"""Bytes up to which a tensor is copied between processes instead of shared."""


@dataclass
class Batch:
    """All samples share one bucket. Either `images` or `latents` is set, never both.

    images: (B, 3, H, W), bytes until `to` makes them floats in -1..1. latents: (B, C, H/8, W/8) as the VAE gave them, not yet scaled.
    input_ids: one (B, chunks, 77) per text encoder, None when `text_states` holds cached encoder outputs.
    token_weights: one (B, 75 * chunks + 2) per text encoder, only with weighted captions.
    loss_weights: (B,). alpha_masks: (B, H, W) in 0..1. conditioning_images: as images.
    original_sizes_hw, crop_top_lefts, target_sizes_hw: (B, 2) int64, pixels, height first.
    bucket: (width, height) in pixels. epoch (1-based) and step: what the data set went by when it built this batch.
    """

    captions: list[str]
    image_keys: list[str]
    loss_weights: Tensor
    original_sizes_hw: Tensor
    crop_top_lefts: Tensor
    target_sizes_hw: Tensor
    flipped: list[bool]
    bucket: tuple[int, int]
    images: Tensor | None = None
    latents: Tensor | None = None
    input_ids: list[Tensor] | None = None
    token_weights: list[Tensor] | None = None
    text_states: dict[str, Tensor] | None = None
    alpha_masks: Tensor | None = None
    conditioning_images: Tensor | None = None
    custom_attributes: list[dict] = field(default_factory=list)
    network_multipliers: Tensor | None = None
    dataset_index: int = 0
    batch_index: int = 0
    epoch: int = 0
    step: int = 0

    def __len__(self) -> int:
        return len(self.image_keys)

    def _mapped(self, change, kinds: type | tuple = Tensor) -> "Batch":
        def apply(value):
            if isinstance(value, kinds):
                return change(value)
            if isinstance(value, list) and value and isinstance(value[0], kinds):
                return [change(item) for item in value]
            if isinstance(value, dict):
                return {key: apply(item) for key, item in value.items()}
            return value

        values = {item.name: apply(getattr(self, item.name)) for item in dataclasses.fields(self)}
        return Batch(**values)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch with every tensor on `device`, and colours as floats in -1..1; other dtypes stay as they are."""
        moved = self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        for name in ("images", "conditioning_images"):
            if getattr(moved, name) is not None:
                setattr(moved, name, colors(getattr(moved, name)))
        return moved

    def pin_memory(self) -> "Batch":
        """Called by the DataLoader when it pins batches for the GPU; what lies there already stays."""
        return self.unpacked()._mapped(pinned)

    def packed(self) -> "Batch":
        """For the way from a worker process: small tensors as arrays, which travel in the message itself.

        Each tensor would be a piece of shared memory of its own, and that takes longer than copying it.
        """
        return self._mapped(lambda tensor: tensor.numpy() if tensor.nbytes <= SMALL and tensor.dtype != torch.bfloat16 else tensor)

    def unpacked(self) -> "Batch":
        """What `packed` was made of."""
        return self._mapped(torch.from_numpy, np.ndarray)


def pinned(tensor: Tensor) -> Tensor:
    """An expanded tensor gets memory of its own, as torch cannot pin it."""
    if tensor.device.type != "cpu":
        return tensor
    return (tensor.contiguous() if 0 in tensor.stride() else tensor).pin_memory()
