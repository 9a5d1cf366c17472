"""Modules from one original-layout checkpoint: built without weights, then given the file's tensors one by one.

Nothing is initialised and no random number is drawn; the peak of memory is the model plus one tensor.
"""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from library.models.checkpoints import Checkpoint
from library.models.configs import attention_levels, clip_config, openclip_config, unet_config, vae_config
from library.models.ldm_keys import OLD_VAE_ATTENTION, openclip_table, renamed, stacked_projection, unet_table, vae_table

Source = tuple[str, int | None]  # a tensor in the file, and which third of it (None: all of it)


def empty(build: Callable[..., nn.Module], *args: Any, **config: Any) -> nn.Module:
    """A module whose parameters have shapes only; its buffers are real."""
    with init_empty_weights(include_buffers=False):
        return build(*args, **config)


def fill(
    module: nn.Module, checkpoint: Checkpoint, source: Callable[[str], Source | None], *, dtype: torch.dtype, device: torch.device | str
) -> nn.Module:
    """Gives an empty module its tensors, in `dtype` on `device`. source: parameter name -> where it is in the file.

    A tensor that differs from its parameter by axes of size 1 only is reshaped: a linear layer is a 1x1 convolution.
    Raises ValueError listing what the file lacks or has in another shape.
    """
    tensors: dict[str, Tensor] = {}
    problems = []
    for name, parameter in module.state_dict().items():
        key, third = source(name) or (name, None)
        if key not in checkpoint.shapes:
            problems.append(f"{key} is missing")
            continue
        tensor = checkpoint.read(key)
        tensor = tensor if third is None else tensor.chunk(3)[third]
        if _plain_shape(tensor) != _plain_shape(parameter):
            problems.append(f"{key} is {tuple(tensor.shape)} instead of {tuple(parameter.shape)}")
            continue
        tensors[name] = tensor.reshape(parameter.shape).to(device, dtype, copy=True)
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{checkpoint.path} does not fit a {type(module).__name__}: {', '.join(problems[:5])}{more}")
    module.load_state_dict(tensors, assign=True)
    return module.to(device)


def _plain_shape(tensor: Tensor) -> list[int]:
    return [size for size in tensor.shape if size != 1]


def empty_unet(part: Checkpoint, *, heads: int | None, linear_projection: bool, sample_size: int) -> UNet2DConditionModel:
    """The U-Net that a part of a file describes. Raises ValueError if the part has tensors that such a U-Net has no place for."""
    _require(part, "input_blocks.0.0.weight", "out.2.weight", "input_blocks.1.0.in_layers.2.weight", "middle_block.1.norm.weight")
    config = unet_config(part.shapes, heads=heads, linear_projection=linear_projection, sample_size=sample_size)
    unet = empty(UNet2DConditionModel, **config)
    known = {key for key, _ in unet_sources(unet).values()}
    extra = [name for name in part.shapes if name not in known]
    if extra:
        raise ValueError(f"{part.path} has {len(extra)} tensors that its kind of U-Net has no place for, such as {', '.join(extra[:5])}")
    return unet


def unet_sources(unet: UNet2DConditionModel) -> dict[str, Source]:
    """Parameter name -> tensor of the original layout."""
    table = unet_table(attention_levels(unet.config), unet.config.layers_per_block)
    return {name: (renamed(name, table) or name, None) for name in unet.state_dict()}


def fill_unet(unet: UNet2DConditionModel, part: Checkpoint, *, dtype: torch.dtype, device: torch.device | str) -> UNet2DConditionModel:
    return fill(unet, part, unet_sources(unet).get, dtype=dtype, device=device)


def empty_vae(part: Checkpoint, *, scaling_factor: float, sample_size: int) -> AutoencoderKL:
    """The VAE that a part of a file describes."""
    _require(part, "encoder.down.0.block.0.conv1.weight", "decoder.conv_in.weight")
    return empty(AutoencoderKL, **vae_config(part.shapes, scaling_factor=scaling_factor, sample_size=sample_size))


def fill_vae(vae: AutoencoderKL, part: Checkpoint, *, dtype: torch.dtype, device: torch.device | str) -> AutoencoderKL:
    table = vae_table(len(vae.config.block_out_channels), vae.config.layers_per_block)
    return fill(vae, part, lambda name: (renamed(name, table) or name, None), dtype=dtype, device=device)


def original_vae_names(part: Checkpoint) -> Checkpoint:
    """A VAE part in diffusers' names, of any age, under original names."""
    levels = len({name.split(".")[2] for name in part.shapes if name.startswith("encoder.down_blocks.")})
    resnets = len({name.split(".")[4] for name in part.shapes if name.startswith("encoder.down_blocks.0.resnets.")})
    table = vae_table(levels, resnets)

    def original(name: str) -> str:
        for old, new in OLD_VAE_ATTENTION.items():
            name = name.replace(old, new)
        return renamed(name, table) or name

    return part.renamed(original)


def clip_text_encoder(part: Checkpoint, *, dtype: torch.dtype, device: torch.device | str) -> CLIPTextModel:
    """A text encoder in transformers' layout; old files lack the `text_model.` in front."""
    part = part.renamed(lambda name: f"text_model.{name}" if name.startswith(("embeddings.", "encoder.", "final_layer_norm.")) else name)
    _require(part, "text_model.embeddings.token_embedding.weight", "text_model.embeddings.position_embedding.weight")
    text_encoder = empty(CLIPTextModel, CLIPTextConfig(**clip_config(part.shapes)))
    return fill(text_encoder, part, lambda name: (_file_name(name), None), dtype=dtype, device=device)


def openclip_text_encoder(
    part: Checkpoint,
    *,
    keep_last_layer: bool,
    projection: bool,
    transpose_projection: bool = True,
    dtype: torch.dtype,
    device: torch.device | str,
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """A text encoder in OpenCLIP's layout. projection: with the layer that makes pooled states.

    transpose_projection: OpenCLIP multiplies by its matrix from the right, a Linear by its transpose.
    """
    part = part.renamed(lambda name: "text_projection" if name.startswith("text_projection") else name)
    _require(part, "token_embedding.weight", "positional_embedding", *(["text_projection"] if projection else []))
    config = CLIPTextConfig(**openclip_config(part.shapes, keep_last_layer=keep_last_layer))
    text_encoder = empty(CLIPTextModelWithProjection if projection else CLIPTextModel, config)
    table = openclip_table(config.num_hidden_layers)

    def source(name: str) -> Source:
        name = _file_name(name)
        return stacked_projection(name) or (renamed(name, table) or name, None)

    fill(text_encoder, part, source, dtype=dtype, device=device)
    if projection and transpose_projection:
        weight = text_encoder.text_projection.weight
        weight.data = weight.data.T.contiguous()
    return text_encoder


def _file_name(name: str) -> str:
    """A text encoder's parameter name with the `text_model.` that some transformers versions leave out."""
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def _require(part: Checkpoint, *names: str) -> None:
    missing = [name for name in names if name not in part.shapes]
    if missing:
        raise ValueError(f"{part.path} is not a whole model: it lacks {', '.join(missing)}")
