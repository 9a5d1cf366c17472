"""Adapters added to each other: by their factors, as sd-scripts does it or exactly, or by singular values.

Factors of a file written here are computed one module at a time, when the module is written.
"""

import functools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from library.models.streams import Stream
from library.saving.streaming import LazyTensor
from networks.files.adapter_file import AdapterFile
from networks.files.algebra import LowRank, Svd, kind_of, lora_parts, low_rank, total_change
from networks.files.names import OFT_UNET, UNET
from networks.files.places import kind_of_model, places
from networks.files.strengths import Strength

logger = logging.getLogger(__name__)

LORA_PARTS = {"lora_down.weight", "lora_up.weight", "alpha"}
SCALED_PARTS = (  # a factor on these is a factor on all
    "lora_up.weight", "hada_w1_a", "lokr_w1", "lokr_w1_a", "diff", "diff_b", "w_norm", "b_norm", "weight", "a1.weight", "b1.weight",
)  # fmt: skip
CLAMP_QUANTILE = 0.99


@dataclass(frozen=True)
class Source:
    """A file with the ratio and the block weight of each of its modules."""

    file: AdapterFile
    ratio: Strength
    block_weight: Strength

    def strength(self, module: str) -> float:
        return self.ratio(module) * self.block_weight(module)


def holders(sources: Sequence[Source]) -> dict[str, list[Source]]:
    """Module -> the sources that have it, in order; modules in the order of the files."""
    found: dict[str, list[Source]] = {}
    for source in sources:
        for module in source.file.modules:
            found.setdefault(module, []).append(source)
    return found


def merged_by_factors(
    sources: Sequence[Source], *, exact: bool, concat: bool, shuffle: bool, work_dtype: torch.dtype
) -> tuple[dict[str, LazyTensor], dict[str, tuple[int, float]]]:
    """One adapter from several: its tensors, and rank and alpha of its LoRA modules.

    exact: what the result adds is the sum of what the sources add, each times its strength; modules with strength 0 are
    left out, and ranks add up. Otherwise as sd-scripts: ratios act on both factors, so that they count squared.
    Raises ValueError for modules that cannot be combined so.
    """
    tensors: dict[str, LazyTensor] = {}
    sizes: dict[str, tuple[int, float]] = {}
    for module, having in holders(sources).items():
        if exact:
            having = [source for source in having if source.strength(module)]
        if not having:
            continue
        make = functools.lru_cache(maxsize=1)(functools.partial(_module, module, having, exact, concat, shuffle, work_dtype))
        shapes = make()
        for part, tensor in shapes.items():
            tensors[f"{module}.{part}"] = LazyTensor(tensor.dtype, tuple(tensor.shape), functools.partial(_part, make, part))
        if "lora_down.weight" in shapes:
            sizes[module] = shapes["lora_down.weight"].shape[0], float(shapes["alpha"])
        make.cache_clear()
    return tensors, sizes


def _part(make, part: str) -> Tensor:
    return make()[part]


@torch.no_grad()
def _module(module, having: list[Source], exact: bool, concat: bool, shuffle: bool, work_dtype: torch.dtype) -> dict[str, Tensor]:
    parts = [source.file.read(module) for source in having]
    plain = all(set(one) == LORA_PARTS for one in parts)
    if plain and not exact:
        return _as_reference(module, having, parts, concat, shuffle, work_dtype)
    products = [low_rank(module, one) for one in parts]
    if exact and all(product is not None for product in products) and not any("dora_scale" in one for one in parts):
        return _concatenated(products, [source.strength(module) for source in having], work_dtype)
    if len(having) == 1:
        return _scaled(module, having[0], parts[0], work_dtype)
    kinds = ", ".join(kind_of(one) for one in parts)
    raise ValueError(
        f"{module} is in several files as {kinds}, whose factors cannot be added: use svd_merge_lora.py, which takes every kind"
        + ("" if exact else ", or --exact where all are LoRA")
    )


def _as_reference(
    module: str, having: list[Source], parts: list[dict[str, Tensor]], concat: bool, shuffle: bool, work_dtype: torch.dtype
) -> dict[str, Tensor]:
    """Both factors of file i times f = sqrt(alpha_i / alpha_first) * ratio_i, the up one without its sign, then summed or concatenated."""
    alpha = float(parts[0]["alpha"])
    downs, ups = [], []
    for source, one in zip(having, parts, strict=True):
        factor = math.sqrt(float(one["alpha"]) / alpha) * source.strength(module)
        downs.append(one["lora_down.weight"].to(work_dtype) * factor)
        ups.append(one["lora_up.weight"].to(work_dtype) * abs(factor))
    if concat:
        down, up = torch.cat(downs), torch.cat(ups, dim=1)
    elif len({down.shape for down in downs}) > 1:
        raise ValueError(
            f"{module} has ranks {', '.join(str(down.shape[0]) for down in downs)} in the files, which cannot be added factor by factor: "
            "use --concat, --exact or svd_merge_lora.py"
        )
    else:
        down, up = sum(downs), sum(ups)
    if shuffle:
        order = torch.randperm(down.shape[0])
        down, up = down[order], up[:, order]
    return {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(alpha)}


def _concatenated(products: Sequence[LowRank], strengths: Sequence[float], work_dtype: torch.dtype) -> dict[str, Tensor]:
    """One LoRA with alpha = rank that adds exactly sum(strength * product). The strength is shared by both factors."""
    downs, ups = [], []
    for one, strength in zip(products, strengths, strict=True):
        factor = one.scale * strength
        root = math.sqrt(abs(factor))
        downs.append(one.down * math.copysign(root, factor))
        ups.append(one.up * root)
    down = torch.cat(downs)
    parts = lora_parts(down, torch.cat(ups, dim=1), down.shape[0], products[0].shape)
    return {part: tensor if part == "alpha" else tensor.to(work_dtype) for part, tensor in parts.items()}


def _scaled(module: str, source: Source, parts: Mapping[str, Tensor], work_dtype: torch.dtype) -> dict[str, Tensor]:
    """A module of another kind, its change times the strength."""
    strength = source.strength(module)
    if strength != 1 and ("dora_scale" in parts or not any(part in parts for part in SCALED_PARTS)):
        raise ValueError(
            f"{source.file.path}: the strength of {module}, a {kind_of(parts)}, cannot be changed in the file (ratio {strength:g}): "
            "merge it into a model with --sd_model, or turn it into a LoRA with svd_merge_lora.py --sd_model"
        )
    result = {part: tensor.to(work_dtype) if tensor.is_floating_point() else tensor for part, tensor in parts.items()}
    for part in SCALED_PARTS:
        if part in result:
            result[part] = (parts[part].float() * strength).to(work_dtype)
    return result


@torch.no_grad()
def merged_by_svd(
    sources: Sequence[Source], *, rank: int, conv_rank: int, clamp: float | None, work_dtype: torch.dtype,
    model: Stream | None = None, device: torch.device | str = "cpu",
) -> tuple[dict[str, Tensor], float]:  # fmt: skip
    """The best LoRA of these ranks for sum(strength * change), and its error as a share of the whole change's norm.

    conv_rank: for kernels larger than 1x1. clamp: see `clamped`; None leaves the factors as they are. model: the base
    model, which DoRA, OFT, IA3 and GLoRA need. Raises ValueError where it is missing.
    """
    layers = places(model.tensors, kind_of_model(model.tensors, model.path)) if model else {}
    tensors: dict[str, Tensor] = {}
    lost = whole = 0.0
    for module, having in _holders_by_layer(sources).items():
        terms = [(source.strength(own), own, source.file.read(own, device)) for source, own in having]
        if all(set(parts) <= {"w_norm", "b_norm", "diff_b", "alpha"} for _, _, parts in terms):
            tensors |= _summed(module, terms, work_dtype)
            continue
        weight = _weight_of(module, layers, model, device)
        svd, shape = total_change(terms, weight)
        wanted = conv_rank if len(shape) > 2 and tuple(shape[2:]) != (1, 1) else rank
        kept = min(wanted, len(svd.s))
        down, up = truncated(svd, kept, clamp)
        made = lora_parts(down, up, kept, shape)
        tensors |= {f"{module}.{part}": tensor.cpu() if part == "alpha" else tensor.to("cpu", work_dtype) for part, tensor in made.items()}
        whole += float(svd.s.double().square().sum())
        lost += float((up @ down - (svd.u * svd.s) @ svd.vh).double().square().sum())
    return tensors, math.sqrt(lost / whole) if whole else 0.0


def _weight_of(module: str, layers: Mapping, model: Stream | None, device) -> Tensor | None:
    place = layers.get(module)
    if place is None:
        return None
    weight = model.tensors[place.key].read().to(device, torch.float32)
    return weight if place.third is None else weight.chunk(3)[place.third]


def _holders_by_layer(sources: Sequence[Source]) -> dict[str, list[tuple[Source, str]]]:
    """Module, as a LoRA of its layer is called, -> the sources that have one, and its name there: an OFT's is another."""
    found: dict[str, list[tuple[Source, str]]] = {}
    for own, having in holders(sources).items():
        found.setdefault(own.replace(OFT_UNET, UNET, 1), []).extend((source, own) for source in having)
    return found


def _summed(module: str, terms: Iterable[tuple[float, str, Mapping[str, Tensor]]], work_dtype: torch.dtype) -> dict[str, Tensor]:
    """Changes of norms and biases: plain vectors."""
    total: dict[str, Tensor] = {}
    for strength, _, parts in terms:
        for part, tensor in parts.items():
            if part != "alpha":
                total[f"{module}.{part}"] = strength * tensor.float() + total.get(f"{module}.{part}", 0)
    return {key: tensor.to("cpu", work_dtype) for key, tensor in total.items()}


def truncated(svd: Svd, rank: int, clamp: float | None = None) -> tuple[Tensor, Tensor]:
    """(down, up) with up = u s and down = vh of the first `rank` values, both clamped if asked."""
    up, down = svd.u[:, :rank] * svd.s[:rank], svd.vh[:rank]
    return clamped(down, up, clamp) if clamp else (down, up)


def clamped(down: Tensor, up: Tensor, quantile: float) -> tuple[Tensor, Tensor]:
    """Both factors with their few largest entries cut to this quantile of all entries, 0..1; an error that sd-scripts makes too."""
    entries = torch.cat([up.flatten(), down.flatten()])
    rank = quantile * (entries.numel() - 1)
    below, above = math.floor(rank), math.ceil(rank)
    ordered = entries.sort().values
    limit = float(ordered[below] + (ordered[above] - ordered[below]) * (rank - below))
    return down.clamp(-limit, limit), up.clamp(-limit, limit)
