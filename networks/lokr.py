"""LoKr (arXiv:2212.10650, section on KronA; LyCORIS arXiv:2309.14859): the weight change is a Kronecker product.

    delta = w1 (x) w2,   w2 itself of low rank where the rank is small enough

`--network_module networks.lokr`. Keys in the file, as LyCORIS reads them: `lokr_w1`, then `lokr_w2`, or `lokr_w2_a` and
`lokr_w2_b`, with `use_tucker` and a kernel also `lokr_t2`; `alpha`.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from library.saving.weights import load_tensors
from networks.changes import Kronecker, tucker_product
from networks.delta import DeltaModule, DeltaNetwork, network_like_file, new_network, read_options
from networks.factory import with_dropout
from networks.targets import Target


def factorization(size: int, factor: int = -1) -> tuple[int, int]:
    """The split of `size` into two factors, the smaller first.

    factor: one of the two, if it divides `size`; otherwise the most even split whose smaller part is not above `factor`, -1
    for no limit. 1280 -> (32, 40).
    """
    if factor > 0 and size % factor == 0:
        return min(factor, size // factor), max(factor, size // factor)
    limit = size if factor < 0 else factor
    small = max(part for part in range(1, math.isqrt(size) + 1) if size % part == 0 and (part <= limit or part == 1))
    return small, size // small


class LoKrModule(DeltaModule):
    """Factors of one layer: w1 (out_l, in_m) always whole; w2 (out_k, in_n, kernel) whole or of low rank, starting at zero."""

    kind = "LoKr"
    fast_parameters = ("lokr_w1",)

    def __init__(self, target, rank, alpha, multiplier, dropout, *, split: tuple[int, int], use_tucker: bool = False):
        """split: the shape of w1, out_l and in_m. With w2 whole, alpha is forced to the rank: the scale is 1."""
        out, in_channels, *kernel = target.weight_shape
        (out_l, in_m), kernel = split, kernel if target.is_spatial else ()
        out_k, in_n = out // out_l, in_channels // in_m
        whole = rank >= max(out_k, in_n) / 2
        super().__init__(target, rank, float(rank) if whole else alpha, multiplier, dropout)
        self.whole, self.tucker = whole, use_tucker and bool(kernel)
        self.w2_shape = (out_k, in_n, *kernel)
        self.lokr_w1 = _kaiming((out_l, in_m))
        if self.whole:
            self.lokr_w2 = nn.Parameter(torch.zeros(out_k, in_n, *kernel))
        elif self.tucker:
            self.lokr_t2 = _kaiming((rank, rank, *kernel))
            self.lokr_w2_a = _kaiming((rank, out_k))
            self.lokr_w2_b = nn.Parameter(torch.zeros(rank, in_n))
        else:
            self.lokr_w2_a = _kaiming((out_k, rank))
            self.lokr_w2_b = nn.Parameter(torch.zeros(rank, in_n * math.prod(kernel)))

    def change(self) -> Kronecker:
        with torch.autocast(self.lokr_w1.device.type, enabled=False):
            w2 = self._w2()
        return Kronecker(self.lokr_w1, w2.view(*w2.shape, *[1] * (len(self.target.weight_shape) - w2.dim())))

    def _w2(self) -> Tensor:
        if self.whole:
            return self.lokr_w2
        if self.tucker:
            return tucker_product(self.lokr_t2, self.lokr_w2_a, self.lokr_w2_b)
        return (self.lokr_w2_a @ self.lokr_w2_b).view(self.w2_shape)

    def follow_alpha(self) -> None:
        """With w2 whole there is no rank to divide by, whatever alpha a file has."""
        self.scale = 1.0 if self.whole else float(self.alpha) / self.rank


def _kaiming(shape: tuple[int, ...]) -> nn.Parameter:
    return nn.Parameter(nn.init.kaiming_uniform_(torch.empty(shape, device="cpu", dtype=torch.float32), a=math.sqrt(5)))


def create_network(
    multiplier: float, network_dim: int | None, network_alpha: float | None, vae, text_encoder, unet, neuron_dropout=None, **kwargs
) -> DeltaNetwork:
    """A fresh network; `kwargs` are the --network_args as text. Raises ValueError naming the argument that is wrong."""
    options = with_dropout(read_options(kwargs, "networks.lokr", {"factor": int}), neuron_dropout)
    factor = options["factor"] or -1

    def make(target: Target, *rest):
        out, in_channels = target.weight_shape[:2]
        split = factorization(out, factor)[0], factorization(in_channels, factor)[0]
        return LoKrModule(target, *rest, split=split, use_tucker=bool(options["use_tucker"]))

    return new_network(make, options, multiplier, network_dim, network_alpha, text_encoder, unet)


def create_network_from_weights(
    multiplier: float, file: str | Path | None, vae, text_encoder, unet, weights_sd: Mapping[str, Tensor] | None = None,
    for_inference: bool = False, neuron_dropout=None, **kwargs,
) -> tuple[DeltaNetwork, dict[str, Tensor]]:  # fmt: skip
    """A network of the ranks, alphas and splits in `file` (or in `weights_sd`), and the file's tensors; they are not loaded yet.

    The split comes from the shape of w1, so `factor` need not be repeated.
    """
    options = with_dropout(read_options(kwargs, "networks.lokr", {"factor": int}), neuron_dropout)
    weights = load_tensors(file) if weights_sd is None else weights_sd
    return network_like_file(_makers, _rank_of, options, multiplier, weights, str(file), text_encoder, unet)


def _rank_of(module: str, weights: Mapping[str, Tensor]) -> int | None:
    """The rank of w2; a whole w2 counts as one of the highest rank it could have."""
    low_rank, whole = weights.get(f"{module}.lokr_w2_a"), weights.get(f"{module}.lokr_w2")
    if low_rank is not None:
        return low_rank.shape[0 if f"{module}.lokr_t2" in weights else 1]
    return None if whole is None else max(whole.shape[:2])


def _makers(weights: Mapping[str, Tensor]):
    def make(target: Target, *rest):
        split = tuple(weights[f"{target.name}.lokr_w1"].shape)
        return LoKrModule(target, *rest, split=split, use_tucker=f"{target.name}.lokr_t2" in weights)

    return make
