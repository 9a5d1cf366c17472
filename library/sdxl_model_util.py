"""A door for other programs: SDXL models by the names that kohya's library gives the functions."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from library.models.ldm_keys import UNET_PREFIX, renamed
from library.models.original_layout import original_openclip, original_vae
from library.models.sdxl import SDXL
from library.models.sdxl_keys import TEXT_ENCODER_1_PREFIX, TEXT_ENCODER_2_PREFIX, UNET_TO_DIFFUSERS, UNET_TO_ORIGINAL
from library.saving.streaming import LazyTensor, write_stream

UNET_CONFIG = {
    "sample_size": 128, "in_channels": 4, "out_channels": 4, "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20], "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip


class SdxlUNet2DConditionModel(UNet2DConditionModel):
    """diffusers' U-Net in SDXL's size. Its state dict has the original layout's names; loading takes either's."""

    def __init__(self, **config):
        super().__init__(**(UNET_CONFIG | config))

    def state_dict(self, *args, **kwargs) -> dict[str, Tensor]:
        return convert_diffusers_unet_state_dict_to_sdxl(super().state_dict(*args, **kwargs))

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False):
        ours = {renamed(name, UNET_TO_DIFFUSERS) or name: tensor for name, tensor in state_dict.items()}
        return super().load_state_dict(ours, strict=strict, assign=assign)


sdxl_original_unet = SimpleNamespace(SdxlUNet2DConditionModel=SdxlUNet2DConditionModel)


def load_models_from_sdxl_checkpoint(
    model_version: str | None,
    ckpt_path: str | Path,
    map_location: torch.device | str,
    dtype: torch.dtype | None = None,
    disable_mmap: bool = False,
) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module, Tensor | None, None]:
    """(text encoder 1, text encoder 2, VAE, U-Net, logit scale, None), frozen, in fp32 or `dtype`. model_version is not read.

    The last is epoch and step of the checkpoint, which no file that is read here holds. Raises ValueError for another kind.
    """
    models = SDXL().load(str(ckpt_path), dtype=dtype or torch.float32, device=map_location, disable_mmap=disable_mmap)
    return (*models.text_encoders, models.vae, models.unet, models.logit_scale, None)


def convert_diffusers_unet_state_dict_to_sdxl(du_sd: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a diffusers SDXL U-Net under original names."""
    return {renamed(name, UNET_TO_ORIGINAL) or name: tensor for name, tensor in du_sd.items()}


def _load_state_dict_on_device(model: nn.Module, state_dict: Mapping[str, Tensor], device: torch.device | str, dtype=None) -> Any:
    """Gives a model, of meta tensors too, its weights on `device`. Raises RuntimeError naming keys that do not fit."""
    placed = {name: tensor.to(device, dtype or tensor.dtype) for name, tensor in state_dict.items()}
    return model.load_state_dict(placed, strict=True, assign=True)


def save_stable_diffusion_checkpoint(
    output_file: str | Path,
    text_encoder1: nn.Module,
    text_encoder2: nn.Module,
    unet: nn.Module,
    epochs: int,
    steps: int,
    ckpt_info: tuple[int, int] | None,
    vae: nn.Module,
    logit_scale: Tensor | None,
    metadata: Mapping[str, str] | None,
    save_dtype: torch.dtype | None = None,
) -> int:
    """Writes an SDXL model as one file in the original layout and returns how many tensors it has.

    epochs, steps, ckpt_info: of training; files of tensors have no place for them.
    """
    tensors = {UNET_PREFIX + name: tensor for name, tensor in _lazy(convert_diffusers_unet_state_dict_to_sdxl(unet.state_dict())).items()}
    for name, tensor in _lazy(text_encoder1.state_dict()).items():
        tensors[TEXT_ENCODER_1_PREFIX + (name if name.startswith("text_model.") else f"text_model.{name}")] = tensor
    tensors |= original_openclip(_lazy(text_encoder2.state_dict()), TEXT_ENCODER_2_PREFIX, spare_layer=False)
    if logit_scale is not None:
        tensors[TEXT_ENCODER_2_PREFIX + "logit_scale"] = LazyTensor.of(logit_scale)
    tensors |= original_vae(_lazy(vae.state_dict()))
    write_stream(output_file, {name: tensor.to(save_dtype) for name, tensor in tensors.items()}, metadata)
    return len(tensors)


def _lazy(state_dict: Mapping[str, Tensor]) -> dict[str, LazyTensor]:
    return {name: LazyTensor.of(tensor) for name, tensor in state_dict.items()}
