"""An adapter under other names: kohya's, those of diffusers and PEFT, or those of ComfyUI's models; and cleaned copies."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from networks.files.adapter_file import PEFT_METADATA, AdapterFile
from networks.files.diagnosis import PRIVATE, Diagnosis
from networks.files.names import comfyui_layer, diffusers_layer

Modules = dict[str, dict[str, Tensor]]  # kohya's name -> part -> tensor

NAMINGS = ("kohya", "diffusers", "comfyui")


def all_modules(file: AdapterFile) -> Modules:
    return {module: file.read(module) for module in file.modules}


def converted(file: AdapterFile, modules: Modules, naming: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of the file under one of NAMINGS. Raises ValueError for what the other naming cannot say."""
    metadata = {key: value for key, value in file.metadata.items() if key != PEFT_METADATA}
    if naming == "diffusers":
        return _to_diffusers(modules), metadata
    if naming == "comfyui":
        return {
            f"{_named(comfyui_layer, module)}.{part}": one for module, parts in modules.items() for part, one in parts.items()
        }, metadata
    return {f"{module}.{part}": one for module, parts in modules.items() for part, one in parts.items()}, metadata


def _named(name_of: Callable[[str], str | None], module: str) -> str:
    name = name_of(module)
    if name is None:
        raise ValueError(f"the layer behind {module} is not known, so it has no other name")
    return name


def _to_diffusers(modules: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """alpha / rank goes into lora_B, and all modules get the highest rank, by zeros: diffusers then has one rank and scale 1."""
    wrong = [module for module, parts in modules.items() if set(parts) - {"lora_down.weight", "lora_up.weight", "alpha", "dora_scale"}]
    if wrong:
        raise ValueError(
            f"{len(wrong)} modules are no plain LoRA (such as {wrong[0]}), which diffusers cannot read: make one with resize_lora.py"
        )
    rank = max(parts["lora_down.weight"].shape[0] for parts in modules.values())
    tensors = {}
    for module, parts in modules.items():
        name, down, up = _named(diffusers_layer, module), parts["lora_down.weight"], parts["lora_up.weight"]
        own = down.shape[0]
        up = (up.float() * (float(parts["alpha"]) / own)).to(up.dtype)
        tensors[f"{name}.lora_A.weight"] = torch.cat([down, down.new_zeros(rank - own, *down.shape[1:])])
        tensors[f"{name}.lora_B.weight"] = torch.cat([up, up.new_zeros(up.shape[0], rank - own, *up.shape[2:])], dim=1)
        if "dora_scale" in parts:
            tensors[f"{name}.lora_magnitude_vector"] = _peft_magnitude(module, parts["dora_scale"], up)
    return tensors


def _peft_magnitude(module: str, magnitude: Tensor, up: Tensor) -> Tensor:
    if magnitude.numel() != up.shape[0] or (magnitude.dim() > 1 and magnitude.shape[0] == 1):
        raise ValueError(
            f"{module} is a DoRA with magnitudes by input, which PEFT does not have: bake it with svd_merge_lora.py --sd_model"
        )
    return magnitude.reshape(1, -1, 1, 1) if up.dim() > 2 else magnitude.reshape(-1)


def cleaned(found: Diagnosis, dtype: torch.dtype | None, *, keep_metadata: bool) -> tuple[AdapterFile, Modules]:
    """The file without what is wrong: broken, NaN and zero modules, foreign tensors, mixed formats, missing alphas, private metadata.

    dtype: the format of all tensors but alpha, None for the one that most have.
    """
    file = found.file
    dtype = dtype or getattr(torch, found.dtypes.most_common(1)[0][0])
    left_out = {*found.broken, *found.bad, *found.zero}
    modules = {}
    for module in file.modules:
        if module not in left_out:
            parts = file.read(module)
            modules[module] = {part: tensor.float() if part == "alpha" else tensor.to(dtype) for part, tensor in parts.items()}
    if not modules:
        raise ValueError(f"nothing of {file.path} would be left")
    metadata = {key: value for key, value in file.metadata.items() if keep_metadata or key not in PRIVATE}
    return AdapterFile(file.path, metadata, file.modules, {}, file.names, file.sdxl, file.default_alpha), modules
