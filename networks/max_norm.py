"""Max-norm regularisation (`--scale_weight_norms`): keeps the Frobenius norm of each module's weight change within a bound.

The norm of a product comes from its factors, for LoRA |up down|² = sum((upᵀ up) * (down downᵀ)), so the weight change itself is
not built (but for a LoHa). LoRA modules of one shape share a batched product, and all norms reach the host in one read. Of a DoRA the
direction's change counts; its magnitude is left alone.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from networks.layers import AdapterModule, LoRAModule


class NormReport(NamedTuple):
    """What the logs show."""

    keys_scaled: int
    mean: float  # over all modules, after scaling
    maximum: float


class NormLimited:
    """Gives a network the method that --scale_weight_norms calls."""

    def apply_max_norm_regularization(self, max_norm_value: float, device) -> NormReport:
        """Bounds the norm of every module's weight change by `max_norm_value`; returns (modules scaled, mean norm, largest norm)."""
        report = apply_max_norm(self.adapters, max_norm_value)
        if report.keys_scaled:
            self.weights_changed()
        return report


@torch.no_grad()
def apply_max_norm(modules: Sequence[AdapterModule], max_norm: float) -> NormReport:
    """Scales all factors of a module by the same number wherever the norm of its change exceeds `max_norm`, in place.

    The multiplier does not count. Norms within a rounding error of the bound are left alone.
    """
    norms = change_norms(modules)
    shrunk, factors, count = [], [], 0
    for module, norm in zip(modules, norms, strict=True):
        if norm > max_norm * (1 + 1e-6):
            parameters, power = module.factor_shares()
            shrunk += parameters
            factors += [(max_norm / norm) ** power] * len(parameters)
            count += 1
    if shrunk:
        torch._foreach_mul_(shrunk, factors)
    kept = [min(norm, max_norm) for norm in norms]
    return NormReport(count, sum(kept) / len(kept), max(kept)) if kept else NormReport(0, 0.0, 0.0)


@torch.no_grad()
def change_norms(modules: Sequence[AdapterModule]) -> list[float]:
    """Frobenius norm of scale * change of each module."""
    if not modules:
        return []
    groups: dict[tuple, list[int]] = defaultdict(list)
    norms: dict[int, Tensor] = {}
    home = modules[0].alpha.device
    for index, module in enumerate(modules):
        if isinstance(module, LoRAModule):
            down, up = module.factors()
            groups[down.shape, up.shape, down.device].append(index)
        else:
            norms[index] = module.change().norm().double().to(home)
    for group in groups.values():
        found = product_norms(*_stacked([modules[index].factors() for index in group])).to(home)
        norms.update(zip(group, found, strict=True))
    values = torch.stack([norms[index] for index in range(len(modules))]).tolist()
    return [value * abs(module.scale) for value, module in zip(values, modules, strict=True)]


def product_norms(down: Tensor, up: Tensor) -> Tensor:
    """|up down| of each pair in the batch, (n,), double. down (n, rank, in), up (n, out, rank), fp32."""
    gram_down = down @ down.mT
    gram_up = up.mT @ up
    return (gram_down.double() * gram_up.double()).sum((1, 2)).clamp(min=0).sqrt()


def _stacked(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    downs, ups = zip(*pairs, strict=True)
    return torch.stack(downs).float(), torch.stack(ups).float()
