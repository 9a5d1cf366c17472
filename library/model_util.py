"""A door for other programs: Stable Diffusion 1 and 2 models by the names that kohya's library gives the functions."""

import os
from pathlib import Path

import torch
from torch import nn

from library.models.conversion import flatten_projections
from library.models.sd import SD


def is_safetensors(path: str | Path) -> bool:
    """Whether the name ends in .safetensors."""
    return os.path.splitext(path)[1].lower() == ".safetensors"


def load_models_from_stable_diffusion_checkpoint(
    v2: bool,
    ckpt_path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    unet_use_linear_projection_in_v2: bool = True,
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """(text encoder, VAE, U-Net) of a single file or a diffusers folder, frozen, in fp32 or `dtype`.

    unet_use_linear_projection_in_v2: SD2's U-Net gets Linear layers around its transformers instead of 1x1 convolutions.
    Raises ValueError for a model of another kind.
    """
    models = SD(v2=v2).load(str(ckpt_path), dtype=dtype or torch.float32, device=device)
    if v2 and unet_use_linear_projection_in_v2:
        flatten_projections(models.unet)
    return models.text_encoders[0], models.vae, models.unet
