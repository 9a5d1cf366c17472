"""A model in a diffusers folder, seen as the single file in the original layout that it would be: nothing is read until asked for."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from library.models.configs import SD2_TEXT_LAYERS, attention_levels
from library.models.kinds import SD1, SD2, SDXL, kind_of_unet_config
from library.models.ldm_keys import (
    CLIP_PREFIX,
    OLD_VAE_ATTENTION,
    OPENCLIP_PREFIX,
    UNET_PREFIX,
    VAE_ATTENTION_PARTS,
    VAE_PREFIX,
    openclip_table,
    renamed,
    stacked_projection,
    unet_table,
    vae_table,
)
from library.models.sdxl_keys import TEXT_ENCODER_1_PREFIX, TEXT_ENCODER_2_PREFIX
from library.models.streams import Stream, open_stream
from library.saving.streaming import LazyTensor

Lazy = dict[str, LazyTensor]

LOGIT_SCALE = 4.6052  # ln 100, where CLIP training ends; single files have it, no image depends on it
WEIGHT_FILES = ("diffusion_pytorch_model", "model", "pytorch_model")


def open_model(path: str, variant: str | None = None) -> Stream:
    """A model as one file in the original layout: such a file as it is, or a diffusers folder under original names.

    variant: "fp16" for the files of that name in the folder. Raises ValueError for anything else.
    """
    if not os.path.isdir(path):
        return open_stream(path)
    folder = Path(path)
    config = _config(folder / "unet")
    kind = kind_of_unet_config(config)
    if kind == "an SD model":  # of unusual width: the text encoder tells
        kind = SD1 if _config(folder / "text_encoder").get("hidden_act") == "quick_gelu" else SD2
    if kind not in (SD1, SD2, SDXL):
        raise ValueError(f"{path} is {kind}; only Stable Diffusion 1, 2 and XL can be written as one file")
    tensors = original_unet(_part(folder / "unet", variant), config, flat_projections=kind != SD1)
    tensors |= original_vae(_part(folder / "vae", variant))
    text = _part(folder / "text_encoder", variant)
    if kind == SD2:
        tensors |= original_openclip(text, OPENCLIP_PREFIX, spare_layer=True)
    else:
        prefix = CLIP_PREFIX if kind == SD1 else TEXT_ENCODER_1_PREFIX
        tensors |= {prefix + _leveled(name): tensor for name, tensor in text.items()}
    if kind == SDXL:
        tensors |= original_openclip(_part(folder / "text_encoder_2", variant), TEXT_ENCODER_2_PREFIX, spare_layer=False)
    return Stream(path, tensors, {})


def original_unet(tensors: Lazy, config: Mapping, *, flat_projections: bool) -> Lazy:
    """A U-Net's tensors under original names. flat_projections: proj_in and proj_out are matrices there, else 1x1 convolutions."""
    table = unet_table(attention_levels(config), config["layers_per_block"])
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(("proj_in.weight", "proj_out.weight")):
            tensor = reshaped(tensor, tensor.shape[:2] if flat_projections else (*tensor.shape[:2], 1, 1))
        found[UNET_PREFIX + (renamed(name, table) or name)] = tensor
    return found


def original_vae(tensors: Lazy) -> Lazy:
    """A VAE's tensors under original names; its attention layers are 1x1 convolutions there."""
    levels = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("encoder.down_blocks."))
    resnets = 1 + max(int(name.split(".")[4]) for name in tensors if name.startswith("encoder.down_blocks.0.resnets."))
    table = vae_table(levels, resnets)
    projections = tuple(f".{part}.weight" for part in VAE_ATTENTION_PARTS.values() if part != "norm")
    found = {}
    for name, tensor in tensors.items():
        for old, new in OLD_VAE_ATTENTION.items():
            name = name.replace(old, new)
        name = VAE_PREFIX + (renamed(name, table) or name)
        is_projection = ".mid.attn_1." in name and name.endswith(projections)
        found[name] = reshaped(tensor, (*tensor.shape[:2], 1, 1)) if is_projection else tensor
    return found


def original_openclip(tensors: Lazy, prefix: str, *, spare_layer: bool) -> Lazy:
    """A text encoder under OpenCLIP's names, query, key and value stacked, the projection transposed.

    spare_layer: SD2 uses 23 of 24 layers, and diffusers keeps no more; readers of single files want the last one, and the
    projection that it feeds, all the same. They get the one before it, and the identity.
    """
    tensors = {_leveled(name): tensor for name, tensor in tensors.items() if not name.endswith("position_ids")}
    layers = 1 + max(int(name.split(".")[3]) for name in tensors if name.startswith("text_model.encoder.layers."))
    if spare_layer and layers != SD2_TEXT_LAYERS + 1:
        last, spare = (f"text_model.encoder.layers.{number}." for number in (layers - 1, layers))
        tensors |= {name.replace(last, spare): one for name, one in tensors.items() if name.startswith(last)}
        layers += 1
    table = openclip_table(layers)
    found: Lazy = {}
    stacks: dict[str, dict[int, LazyTensor]] = {}
    for name, tensor in tensors.items():
        place = stacked_projection(name)
        if place:
            stacks.setdefault(place[0], {})[place[1]] = tensor
        elif name == "text_projection.weight":
            found[prefix + "text_projection"] = LazyTensor(tensor.dtype, tensor.shape[::-1], _then(tensor, lambda one: one.T.contiguous()))
        else:
            found[prefix + (renamed(name, table) or name)] = tensor
    found |= {prefix + name: _stacked([thirds[number] for number in range(3)]) for name, thirds in stacks.items()}
    width = tensors["text_model.final_layer_norm.weight"]
    if spare_layer:
        found.setdefault(prefix + "text_projection", LazyTensor.of(torch.eye(width.shape[0], dtype=width.dtype)))
    found[prefix + "logit_scale"] = LazyTensor.of(torch.tensor(LOGIT_SCALE, dtype=width.dtype))
    return found


def reshaped(tensor: LazyTensor, shape: Iterable[int]) -> LazyTensor:
    shape = tuple(shape)
    return tensor if shape == tensor.shape else LazyTensor(tensor.dtype, shape, _then(tensor, lambda one: one.reshape(shape)))


def _stacked(tensors: list[LazyTensor]) -> LazyTensor:
    shape = (sum(tensor.shape[0] for tensor in tensors), *tensors[0].shape[1:])
    return LazyTensor(tensors[0].dtype, shape, lambda: torch.cat([tensor.read() for tensor in tensors]))


def _then(tensor: LazyTensor, change: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
    return lambda: change(tensor.read())


def _leveled(name: str) -> str:
    """A text encoder's tensor with the `text_model.` that some transformers versions leave out."""
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def _config(part: Path) -> Mapping:
    try:
        return json.loads((part / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise ValueError(f"{part.parent} is no diffusers model: {part.name}/config.json cannot be read") from fault


def _part(part: Path, variant: str | None) -> Lazy:
    """All tensors of one part of the folder, of several files if it is split."""
    names = product([f".{variant}", ""] if variant else ["", ".fp16"], ("safetensors", "bin"), WEIGHT_FILES)
    for middle, ending, stem in names:
        whole = part / f"{stem}{middle}.{ending}"
        files = [whole] if whole.is_file() else sorted(part.glob(f"{stem}{middle}-*-of-*.{ending}"))
        if files:
            return {name: tensor for file in files for name, tensor in open_stream(file).tensors.items()}
    raise ValueError(f"{part} holds no weights (looked for {', '.join(WEIGHT_FILES)} as .safetensors and .bin)")
