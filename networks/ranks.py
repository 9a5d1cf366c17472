"""Rank and alpha of each layer: the same everywhere, per U-Net block, or as a file has them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from networks.block_weights import block_index
from networks.targets import Target

RankRule = Callable[[Target], tuple[int, float | None] | None]  # rank and alpha of a layer; None: leave the layer alone
RankOf = Callable[[str, Mapping[str, Tensor]], int | None]  # rank of a module by its name in a file; None: the file lacks it


@dataclass(frozen=True)
class Ranks:
    """The plain rule: `dim` for Linear layers and 1x1 convolutions, `conv_dim` for larger ones, which None leaves out."""

    dim: int
    alpha: float | None
    conv_dim: int | None = None
    conv_alpha: float | None = None

    def __call__(self, target: Target) -> tuple[int, float | None] | None:
        if not target.is_spatial:
            return self.dim, self.alpha
        return None if self.conv_dim is None else (self.conv_dim, self.conv_alpha)


@dataclass(frozen=True)
class BlockRanks:
    """One rank and alpha per U-Net block; without conv_dims, larger convolutions are left out."""

    dims: Sequence[int]
    alphas: Sequence[float]
    conv_dims: Sequence[int] | None
    conv_alphas: Sequence[float]

    def __call__(self, target: Target) -> tuple[int, float] | None:
        index = block_index(target.path)
        if not target.is_spatial:
            return self.dims[index], self.alphas[index]
        return None if self.conv_dims is None else (self.conv_dims[index], self.conv_alphas[index])


def rank_axis(part: str, axis: int) -> RankOf:
    """The reader for adapters whose tensor `part`, such as lora_down.weight, has the rank on one axis."""

    def rank_of(module: str, weights: Mapping[str, Tensor]) -> int | None:
        tensor = weights.get(f"{module}.{part}")
        return None if tensor is None else tensor.shape[axis]

    return rank_of


def ranks_of_file(weights: Mapping[str, Tensor], rank_of: RankOf) -> RankRule:
    """The rule that repeats a file. A module without alpha has alpha = rank; layers the file does not have are left alone."""

    def rule(target: Target) -> tuple[int, float] | None:
        rank = rank_of(target.name, weights)
        if rank is None:
            return None
        alpha = weights.get(f"{target.name}.alpha")
        return rank, float(rank if alpha is None else alpha)

    return rule
