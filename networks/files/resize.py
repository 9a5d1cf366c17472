"""Adapters of a smaller rank: fixed, or chosen per module so that a promised part of the change stays.

A LoRA keeps its scale alpha / rank, so its factors alone are decomposed. Other kinds become LoRA, with alpha = rank.
"""

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from networks.files.adapter_file import AdapterFile
from networks.files.algebra import LowRank, Svd, delta, kind_of, lora_parts, low_rank, svd_of
from networks.files.combine import truncated

logger = logging.getLogger(__name__)

METHODS = ("sv_ratio", "sv_fro", "sv_cumulative")
NOTHING = 1e-6  # a largest singular value below it means that the module adds nothing
LORA = {"lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha"}
RESIZED = ("LoRA", "LoHa", "LoKr", "full", "DoRA")


@dataclass(frozen=True)
class Resized:
    """One module after resizing. share: of the Frobenius norm that stayed. kind: what it was."""

    module: str
    kind: str
    old_rank: int
    rank: int
    alpha: float
    share: float
    error: float


def chosen_rank(s: Tensor, longest: int, limit: int, method: str | None, param: float | None) -> int:
    """How many singular values to keep, at most `limit`. s: falling; longest: how many there could be, zeros included.

    sv_ratio: those above the largest / param. sv_cumulative: until their sum reaches the share param. sv_fro: until their
    squares' sum reaches param squared. All keep one more than that, as sd-scripts does. None: `limit`.
    """
    available = min(limit, len(s))
    if float(s[0]) <= NOTHING:
        return 1
    if method is None:
        return available
    s = s.double()
    if method == "sv_ratio":
        index = int((s > s[0] / param).sum())
    else:
        amounts, wanted = (s.square(), param**2) if method == "sv_fro" else (s, param)
        reached = amounts.cumsum(0) / amounts.sum()
        index = 1 + min(int((reached < wanted).sum()), len(s) - 1)
    index = max(1, min(index, longest - 1))
    return max(1, min(index + 1, available))


@torch.no_grad()
def resized(
    file: AdapterFile, *, rank: int, conv_rank: int, method: str | None, param: float | None,
    save_dtype: torch.dtype | None, device: torch.device | str = "cpu",
) -> tuple[dict[str, Tensor], list[Resized]]:  # fmt: skip
    """The file's tensors at the new ranks, and what became of each module; tensors that have no rank stay as they are.

    conv_rank: for every layer that is a convolution, 1x1 too. save_dtype: None keeps each file tensor's own.
    A DoRA's factors are resized and its magnitude kept.
    """
    tensors: dict[str, Tensor] = {}
    report = []
    for module in file.modules:
        parts = file.read(module, device)
        kind = kind_of(parts)
        if kind not in RESIZED or ("diff" in parts and parts["diff"].dim() < 2):
            tensors |= {f"{module}.{part}": _stored(tensor, tensor.dtype, save_dtype) for part, tensor in parts.items()}
            continue
        svd, shape, scale, old_rank = _decomposed(module, parts)
        kept = chosen_rank(svd.s, svd.longest, conv_rank if len(shape) > 2 else rank, method, param)
        down, up = truncated(svd, kept)
        made = lora_parts(down, up, scale * kept, shape)
        own = next(tensor.dtype for part, tensor in parts.items() if part != "alpha")
        tensors |= {f"{module}.{part}": _stored(tensor, own, save_dtype) for part, tensor in made.items()}
        tensors |= {f"{module}.{part}": _stored(parts[part], own, save_dtype) for part in ("dora_scale", "diff_b") if part in parts}
        report.append(Resized(module, kind, old_rank, kept, scale * kept, svd.share(kept), svd.error(kept)))
    if not report:
        raise ValueError(f"{file.path} has no module that could be resized: it holds {kind_of(next(iter(file.modules.values())))} modules")
    return tensors | {key: tensor.read() for key, tensor in file.others.items()}, report


def _decomposed(module: str, parts: dict[str, Tensor]) -> tuple[Svd, tuple[int, ...], float, int]:
    """Singular values, layer shape, scale left out of them, and rank."""
    undecomposed = {part: tensor for part, tensor in parts.items() if part != "dora_scale"}
    product = low_rank(module, undecomposed)
    if product is not None and LORA.issuperset(set(undecomposed) - {"diff_b"}):
        rank = product.down.shape[0]
        return svd_of([LowRank(product.down, product.up, 1.0, product.shape)]), product.shape, product.scale, rank
    if product is not None:
        return svd_of([product]), product.shape, 1.0, product.down.shape[0]
    change = delta(module, undecomposed)
    return svd_of([], change.flatten(1)), tuple(change.shape), 1.0, min(change.flatten(1).shape)


def _stored(tensor: Tensor, own: torch.dtype, save_dtype: torch.dtype | None) -> Tensor:
    return tensor.to("cpu", save_dtype or own) if tensor.is_floating_point() else tensor.cpu()


def whole_error(report: list[Resized]) -> float:
    """The mean square error of all modules' changes, each as a share of its own change."""
    return math.sqrt(sum(one.error**2 for one in report) / len(report))
