"""Adapters added to a model's weights, tensor by tensor: what is read, changed and written is one tensor at a time."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from library.models.streams import Stream
from library.saving.streaming import LazyTensor
from networks.files.adapter_file import AdapterFile
from networks.files.algebra import delta, kind_of
from networks.files.places import Place, kind_of_model, places
from networks.files.strengths import Strength

logger = logging.getLogger(__name__)

LEFT_OUT = ("model_ema.",)  # averaged weights, which the merge does not reach and nobody would notice
MERGEABLE = ("LoRA", "LoHa", "LoKr", "full", "norm", "bias", "OFT", "DoRA", "IA3", "GLoRA")
BIAS_PARTS = ("diff_b", "b_norm")


@dataclass(frozen=True)
class Change:
    """One adapter module that acts on a tensor. bias: it is the layer's bias, a plain difference, instead of its weight."""

    file: AdapterFile
    module: str
    strength: float
    place: Place
    bias: bool = False

    def apply(self, tensor: Tensor) -> None:
        """Changes the tensor, fp32, in place."""
        part = tensor if self.place.third is None else tensor.chunk(3)[self.place.third]
        parts = self.file.read(self.module, tensor.device)
        if self.bias:
            part += self.strength * next(parts[name] for name in BIAS_PARTS if name in parts).float()
        else:
            part += self.strength * delta(self.module, parts, part)


def merged_model(
    model: Stream, adapters: Sequence[tuple[AdapterFile, Strength]], *,
    work_dtype: torch.dtype, save_dtype: torch.dtype, device: torch.device | str = "cpu",
) -> dict[str, LazyTensor]:  # fmt: skip
    """The model's tensors with the adapters in them, one after another: W + strength * (W' - W), computed in fp32.

    work_dtype: what each result is rounded to before it gets save_dtype. Modules the model has no layer for are named in a
    warning. Raises ValueError if a file has none that fits, or has a kind of adapter that cannot be merged.
    """
    kind = kind_of_model(model.tensors, model.path)
    found = places(model.tensors, kind)
    changes: dict[str, list[Change]] = {}
    for file, strength in adapters:
        _collect(file, strength, found, model, changes)
    kept = {name: tensor for name, tensor in model.tensors.items() if not name.startswith(LEFT_OUT)}
    if len(kept) < len(model.tensors):
        logger.info("%d averaged (EMA) weights of the model are left out", len(model.tensors) - len(kept))
    return {name: _changed(tensor, changes.get(name, []), work_dtype, device).to(save_dtype) for name, tensor in kept.items()}


def _collect(file: AdapterFile, strength: Strength, found: dict[str, Place], model: Stream, changes: dict[str, list[Change]]) -> None:
    unknown = []
    for module, parts in file.modules.items():
        place = found.get(module)
        if place is None:
            unknown.append(module)
            continue
        if kind_of(parts) not in MERGEABLE:
            raise ValueError(f"{file.path}: {module} is a kind of adapter that cannot be merged here: {kind_of(parts)}")
        if any(part in parts for part in BIAS_PARTS):
            key = place.bias()
            changes.setdefault(key.key, []).append(Change(file, module, strength(module), key, bias=True))
        if not set(parts) <= {*BIAS_PARTS, "alpha"}:
            changes.setdefault(place.key, []).append(Change(file, module, strength(module), place))
    if len(unknown) == len(file.modules):
        raise ValueError(f"{file.path} fits none of the layers of {model.path}: it was made for another model family")
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        logger.warning("%s: %d modules have no layer in the model and are left out: %s", file.path, len(unknown), shown)
    logger.info("%s: %d modules", file.path, len(file.modules) - len(unknown))


def _changed(tensor: LazyTensor, changes: list[Change], work_dtype: torch.dtype, device: torch.device | str) -> LazyTensor:
    if not tensor.dtype.is_floating_point:
        return tensor
    if not changes:
        return tensor.to(work_dtype)

    @torch.no_grad()
    def read() -> Tensor:
        weight = tensor.read().to(device, torch.float32, copy=True)
        for change in changes:
            change.apply(weight)
        return weight.to(work_dtype)

    return LazyTensor(work_dtype, tensor.shape, read)
