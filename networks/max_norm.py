"""Max-norm regularisation (`--scale_weight_norms`): keeps the Frobenius norm of each module's weight change within a bound.

The norm of a product comes from rank-sized matrices, |up down|² = sum((upᵀ up) * (down downᵀ)), so the weight change itself is
never built. Modules of one shape share a batched product, and all norms reach the host in one read.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from networks.layers import LoRAModule


class NormReport(NamedTuple):
    """What the logs show."""

    keys_scaled: int
    mean: float  # over all modules, after scaling
    maximum: float


@torch.no_grad()
def apply_max_norm(modules: Sequence[LoRAModule], max_norm: float) -> NormReport:
    """Scales down and up of every module by the same factor wherever scale * |up down| exceeds `max_norm`, in place.

    The multiplier does not count. Norms within a rounding error of the bound are left alone.
    """
    norms = lora_norms(modules)
    shrunk, factors = [], []
    for module, norm in zip(modules, norms, strict=True):
        if norm > max_norm * (1 + 1e-6):
            shrunk += [module.lora_down.weight, module.lora_up.weight]
            factors += [(max_norm / norm) ** 0.5] * 2
    if shrunk:
        torch._foreach_mul_(shrunk, factors)
    kept = [min(norm, max_norm) for norm in norms]
    return NormReport(len(shrunk) // 2, sum(kept) / len(kept), max(kept)) if kept else NormReport(0, 0.0, 0.0)


@torch.no_grad()
def lora_norms(modules: Sequence[LoRAModule]) -> list[float]:
    """Frobenius norm of scale * up down of each module."""
    groups: dict[tuple, list[int]] = defaultdict(list)
    factors = [module.factors() for module in modules]
    for index, (down, up) in enumerate(factors):
        groups[down.shape, up.shape, down.device].append(index)
    if not groups:
        return []
    home = factors[0][0].device
    products = [product_norms(*_stacked([factors[index] for index in group])).to(home) for group in groups.values()]
    norms = torch.cat(products).tolist()
    order = [index for group in groups.values() for index in group]
    scaled = {index: norm * abs(modules[index].scale) for index, norm in zip(order, norms, strict=True)}
    return [scaled[index] for index in range(len(modules))]


def product_norms(down: Tensor, up: Tensor) -> Tensor:
    """|up down| of each pair in the batch, (n,). down (n, rank, in), up (n, out, rank), fp32."""
    gram_down = down @ down.mT
    gram_up = up.mT @ up
    return (gram_down.double() * gram_up.double()).sum((1, 2)).clamp(min=0).sqrt()


def _stacked(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    downs, ups = zip(*pairs, strict=True)
    return torch.stack(downs).float(), torch.stack(ups).float()
