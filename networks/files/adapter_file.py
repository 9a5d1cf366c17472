"""An adapter file of any kind and any program, as modules with kohya's names; tensors are read when asked for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from library.models.streams import open_stream
from library.saving.streaming import LazyTensor
from networks.files.names import KOHYA_PREFIXES, kohya_module, looks_like_sdxl, split_key

PEFT_METADATA = "lora_adapter_metadata"


@dataclass(frozen=True)
class AdapterFile:
    """modules: kohya's name -> part -> tensor. others: tensors that belong to no module, under their own names.

    names: what a module was called in the file. default_alpha: alpha of LoRA modules without one, None for their rank.
    """

    path: str
    metadata: dict[str, str]
    modules: dict[str, dict[str, LazyTensor]]
    others: dict[str, LazyTensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    sdxl: bool = False
    default_alpha: float | None = None

    @property
    def stem(self) -> str:
        return Path(self.path).stem

    def read(self, module: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The tensors of one module as stored, alpha always among them where the kind of adapter has one."""
        parts = {part: tensor.read().to(device) for part, tensor in self.modules[module].items()}
        if "lora_down.weight" in parts and "alpha" not in parts:
            rank = parts["lora_down.weight"].shape[0]
            parts["alpha"] = torch.tensor(float(rank if self.default_alpha is None else self.default_alpha))
        is_peft = not self.names.get(module, module).startswith(KOHYA_PREFIXES)
        if is_peft and "dora_scale" in parts and "lora_up.weight" in parts:  # (out,), of convolutions (1, out, 1, 1)
            parts["dora_scale"] = parts["dora_scale"].reshape(-1, *[1] * (parts["lora_up.weight"].dim() - 1))
        return parts

    def ranks(self) -> dict[str, int]:
        """The rank of each LoRA module."""
        return {name: parts["lora_down.weight"].shape[0] for name, parts in self.modules.items() if "lora_down.weight" in parts}

    def alphas(self) -> dict[str, float]:
        """The alpha of each LoRA module; its rank where the file has none."""
        return {name: float(self.read_alpha(name)) for name in self.ranks()}

    def read_alpha(self, module: str) -> float:
        parts = self.modules[module]
        if "alpha" in parts:
            return float(parts["alpha"].read())
        return float(parts["lora_down.weight"].shape[0] if self.default_alpha is None else self.default_alpha)

    @property
    def is_v2(self) -> str | None:
        return self.metadata.get("ss_v2")


def open_adapter(path: str | Path) -> AdapterFile:
    """Opens a file. Raises ValueError if it is no adapter, or two of its tensors have one meaning."""
    stream = open_stream(path)
    keys = {key: split_key(key) for key in stream.tensors}
    sdxl = stream.metadata.get("ss_base_model_version", "").startswith("sdxl") or looks_like_sdxl(
        found[0] for found in keys.values() if found
    )
    modules: dict[str, dict[str, LazyTensor]] = {}
    others, names = {}, {}
    for key, found in keys.items():
        module = found and kohya_module(found[0], sdxl=sdxl)
        if not module:
            others[key] = stream.tensors[key]
            continue
        if found[1] in modules.setdefault(module, {}):
            raise ValueError(f"{path} has {found[1]} of {module} twice, the second time as {key}")
        modules[module][found[1]] = stream.tensors[key]
        names.setdefault(module, found[0])
    if not modules:
        first = ", ".join(list(stream.tensors)[:3]) or "no tensors"
        raise ValueError(f"{path} is no adapter for Stable Diffusion 1, 2 or XL: it has {first}")
    return AdapterFile(str(path), stream.metadata, modules, others, names, sdxl, _peft_alpha(path, stream.metadata))


def _peft_alpha(path: str | Path, metadata: Mapping[str, str]) -> float | None:
    """lora_alpha of a file saved by diffusers, which has no alpha tensors."""
    try:
        config = json.loads(metadata.get(PEFT_METADATA) or "{}")
        return next((float(value) for key, value in config.items() if key.endswith("lora_alpha")), None)
    except (ValueError, TypeError, AttributeError, RecursionError) as fault:
        raise ValueError(f"{path}: its metadata {PEFT_METADATA} is no table with a number as lora_alpha") from fault
