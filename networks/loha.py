"""LoHa (arXiv:2108.06098): the weight change is the elementwise product of two low-rank ones: `--network_module networks.loha`.

    delta = (w1_a w1_b) * (w2_a w2_b)

Where rank² is small this is one product of that rank, and never built (networks/changes.py).

Keys in the file, as LyCORIS reads them: `hada_w1_a`, `hada_w1_b`, `hada_w2_a`, `hada_w2_b`, with `use_tucker` and a kernel
also `hada_t1`, `hada_t2`; `alpha`.
"""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from library.saving.weights import load_tensors
from networks.changes import Hadamard
from networks.delta import DeltaModule, DeltaNetwork, network_like_file, new_network, read_options
from networks.factory import with_dropout
from networks.ranks import rank_axis

RANK_OF = rank_axis("hada_w1_b", 0)


class LoHaModule(DeltaModule):
    """Factors of one layer; the second product starts at zero (in Tucker form the first)."""

    kind = "LoHa"
    fast_parameters = ("hada_w2_a",)

    def __init__(self, target, rank, alpha, multiplier, dropout, *, use_tucker: bool = False):
        """use_tucker: a layer with a kernel shares it in cores t (rank, rank, kh, kw) instead of flattening it."""
        super().__init__(target, rank, alpha, multiplier, dropout)
        out, *columns = target.weight_shape
        self.tucker = use_tucker and target.is_spatial
        rest = columns[0] if self.tucker else math.prod(columns)
        left = (rank, out) if self.tucker else (out, rank)
        if self.tucker:
            self.hada_t1 = _normal((rank, rank, *columns[1:]), 0.1)
            self.hada_t2 = _normal((rank, rank, *columns[1:]), 0.1)
            self.hada_w1_b = _normal((rank, rest), 1)
            self.hada_w1_a = nn.Parameter(torch.zeros(left))
            self.hada_w2_b = _normal((rank, rest), 1)
            self.hada_w2_a = _normal(left, 0.1)
        else:
            self.hada_w1_a = _normal(left, 0.1)
            self.hada_w1_b = _normal((rank, rest), 1)
            self.hada_w2_a = nn.Parameter(torch.zeros(left))
            self.hada_w2_b = _normal((rank, rest), 1)

    def answer(self, x: Tensor) -> Tensor:
        output = None
        if self.base_is_plain():
            output = self.dropped(self.change()).with_layer(x, self.org_module, self.multiplier * self.scale)
        return super().answer(x) if output is None else output

    def change(self) -> Hadamard:
        first, second = [self.hada_w1_a, self.hada_w1_b], [self.hada_w2_a, self.hada_w2_b]
        if self.tucker:
            first, second = [*first, self.hada_t1], [*second, self.hada_t2]
        return Hadamard(tuple(first), tuple(second), self.target.weight_shape)


def _normal(shape: tuple[int, ...], std: float) -> nn.Parameter:
    return nn.Parameter(nn.init.normal_(torch.empty(shape, device="cpu", dtype=torch.float32), std=std))


def create_network(
    multiplier: float, network_dim: int | None, network_alpha: float | None, vae, text_encoder, unet, neuron_dropout=None, **kwargs
) -> DeltaNetwork:
    """A fresh network; `kwargs` are the --network_args as text. Raises ValueError naming the argument that is wrong."""
    options = with_dropout(read_options(kwargs, "networks.loha"), neuron_dropout)
    make = partial(LoHaModule, use_tucker=bool(options["use_tucker"]))
    return new_network(make, options, multiplier, network_dim, network_alpha, text_encoder, unet)


def create_network_from_weights(
    multiplier: float, file: str | Path | None, vae, text_encoder, unet, weights_sd: Mapping[str, Tensor] | None = None,
    for_inference: bool = False, neuron_dropout=None, **kwargs,
) -> tuple[DeltaNetwork, dict[str, Tensor]]:  # fmt: skip
    """A network of the ranks, alphas and forms in `file` (or in `weights_sd`), and the file's tensors; they are not loaded yet."""
    options = with_dropout(read_options(kwargs, "networks.loha"), neuron_dropout)
    weights = load_tensors(file) if weights_sd is None else weights_sd
    return network_like_file(_makers, RANK_OF, options, multiplier, weights, str(file), text_encoder, unet)


def _makers(weights: Mapping[str, Tensor]):
    def make(target, rank, alpha, multiplier, dropout):
        return LoHaModule(target, rank, alpha, multiplier, dropout, use_tucker=f"{target.name}.hada_t1" in weights)

    return make
