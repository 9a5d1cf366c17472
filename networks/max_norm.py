"""Max-norm regularisation (`--scale_weight_norms`): keeps the Frobenius norm of each module's weight change within a bound.

The norm of a product comes from its factors, for LoRA |up down|² = sum((upᵀ up) * (down downᵀ)), so the weight change itself is
not built (but for a LoHa). LoRA modules of one shape share a batched product, and the host reads nothing. Of a DoRA the direction's
change counts; its magnitude is left alone.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from networks.layers import AdapterModule, LoRAModule


class NormReport(NamedTuple):
    """What the logs show: scalars where the weights are, so that nobody waits for them."""

    keys_scaled: Tensor
    mean: Tensor  # over all modules, after scaling
    maximum: Tensor


class NormLimited:
    """Gives a network the method that --scale_weight_norms calls."""

    def apply_max_norm_regularization(self, max_norm_value: float, device) -> NormReport:
        """Bounds the norm of every module's weight change by `max_norm_value`; returns (modules scaled, mean norm, largest norm)."""
        report = apply_max_norm(self.adapters, max_norm_value)
        self.weights_changed()
        return report


@torch.no_grad()
def apply_max_norm(modules: Sequence[AdapterModule], max_norm: float) -> NormReport:
    """Scales all factors of a module by the same number wherever the norm of its change exceeds `max_norm`, in place.

    The multiplier does not count. Norms within a rounding error of the bound are left alone.
    """
    if not modules:
        return NormReport(torch.tensor(0), torch.tensor(0.0), torch.tensor(0.0))
    norms = change_norms(modules)
    over = norms > max_norm * (1 + 1e-6)
    shares = list(zip(modules, torch.where(over, max_norm / norms, 1.0).unbind(), strict=True))
    if norms.device.type == "cpu":  # nobody waits here for the answer, and most modules need no change
        shares = [share for share, above in zip(shares, over.tolist(), strict=True) if above]
    _scale_factors(shares)
    kept = norms.clamp(max=max_norm)
    return NormReport(over.sum(), kept.mean(), kept.max())


def _scale_factors(shares: Sequence[tuple[AdapterModule, Tensor]]) -> None:
    """Multiplies the change of each module by its share; parameters of one shape are worked on together."""
    alike: dict[tuple, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for module, share in shares:
        parameters, power = module.factor_shares()
        for parameter in parameters:
            alike[parameter.shape, parameter.dtype, parameter.device, power].append((parameter, share))
    for (shape, _, device, power), pairs in alike.items():
        parameters, own_shares = zip(*pairs, strict=True)
        factors = torch.stack(own_shares).pow(power).to(device, torch.float32).view(-1, *[1] * len(shape))
        torch._foreach_copy_(parameters, list((torch.stack(parameters) * factors).unbind()))


@torch.no_grad()
def change_norms(modules: Sequence[AdapterModule]) -> Tensor:
    """Frobenius norm of scale * change of each of one or more modules, (n,), double."""
    groups: dict[tuple, list[int]] = defaultdict(list)
    norms: dict[int, Tensor] = {}
    home = modules[0].alpha.device
    for index, module in enumerate(modules):
        if isinstance(module, LoRAModule):
            down, up = module.factors()
            groups[down.shape, up.shape, down.device, module.scale].append(index)
        else:
            norms[index] = module.change().norm().double().to(home) * abs(module.scale)
    for (*_, scale), group in groups.items():
        found = product_norms(*_stacked([modules[index].factors() for index in group])).to(home) * abs(scale)
        norms.update(zip(group, found.unbind(), strict=True))
    return torch.stack([norms[index] for index in range(len(modules))])


def product_norms(down: Tensor, up: Tensor) -> Tensor:
    """|up down| of each pair in the batch, (n,), double. down (n, rank, in), up (n, out, rank), fp32."""
    gram_down = down @ down.mT
    gram_up = up.mT @ up
    return (gram_down.double() * gram_up.double()).sum((1, 2)).clamp(min=0).sqrt()


def _stacked(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    downs, ups = zip(*pairs, strict=True)
    return torch.stack(downs).float(), torch.stack(ups).float()
