"""DyLoRA (arXiv:2210.07558): LoRA trained so that it can be cut to any smaller rank: `--network_module networks.dylora`.

Each step trains one slice of `unit` ranks, chosen at random. The file has LoRA's keys.
"""

import math
import random
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from library.saving.weights import load_tensors
from networks.arguments import read_network_args
from networks.changes import LowRank
from networks.factory import LORAPLUS_ARGS, ModelTargets, assemble, like_file, loraplus_ratios
from networks.layers import AdapterModule
from networks.max_norm import NormLimited
from networks.network import AdapterNetwork
from networks.ranks import Ranks, rank_axis, ranks_of_file

NETWORK_ARGS = {"conv_dim": int, "conv_alpha": float, "unit": int, **LORAPLUS_ARGS}
NO_DROPOUT = dict.fromkeys(("dropout", "rank_dropout", "module_dropout"))


class DyLoRAModule(AdapterModule):
    """One row of down (`lora_A`) and one column of up (`lora_B`) per rank, each a parameter, so that each can rest alone."""

    fast_parameters = ("lora_B",)

    def __init__(self, target, rank, alpha, multiplier, dropout, *, unit: int = 1):
        super().__init__(target, rank, alpha, multiplier, dropout)
        self.unit = unit
        rows, columns = math.prod(target.weight_shape[1:]), target.weight_shape[0]
        self.lora_A = nn.ParameterList([torch.empty(1, rows) for _ in range(rank)])
        self.lora_B = nn.ParameterList([torch.zeros(columns, 1) for _ in range(rank)])
        for row in self.lora_A:
            nn.init.kaiming_uniform_(row, a=math.sqrt(5))

        self.slice_start: int | None = None
        self.register_state_dict_post_hook(stack_ranks)
        self.register_load_state_dict_pre_hook(split_ranks)

    @property
    def same_every_step(self) -> bool:
        return False

    def adapt(self, x: Tensor, base: Tensor) -> Tensor:
        """All ranks contribute; in training, only a random slice of them learns and the output is scaled for its place."""
        learning = self._slice() if self.training else range(self.rank)
        rows = [row if i in learning else row.detach() for i, row in enumerate(self.lora_A)]
        columns = [column if i in learning else column.detach() for i, column in enumerate(self.lora_B)]
        scale = self.multiplier * self.scale * math.sqrt(self.rank / learning.stop)
        return self._low_rank(rows, columns).add_to(base, x, self.org_module, scale)

    def change(self) -> LowRank:
        return self._low_rank(list(self.lora_A), list(self.lora_B))

    def factor_shares(self) -> tuple[list[nn.Parameter], float]:
        return [*self.lora_A, *self.lora_B], 0.5

    def _low_rank(self, rows: list[Tensor], columns: list[Tensor]) -> LowRank:
        return LowRank(torch.cat(rows).view(self.rank, *self.target.weight_shape[1:]), torch.cat(columns, dim=1))

    def kernels(self, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """The matrices down (rank, inputs) and up (out, rank) in the layer's own kind of weight."""
        layer = self.org_module
        if isinstance(layer, nn.Linear):
            return down, up
        return down.view(self.rank, layer.in_channels, *layer.kernel_size), up[:, :, None, None]

    def _slice(self) -> range:
        """The ranks that learn in this step."""
        if self.slice_start is None:
            chosen = random.randrange(self.rank)
            self.slice_start = chosen - chosen % self.unit
        return range(self.slice_start, self.slice_start + self.unit)


class DyLoRANetwork(NormLimited, AdapterNetwork):
    """All DyLoRA modules of a model."""

    def on_step_start(self, text_encoder, unet) -> None:
        """Lets every module choose a new slice at its next call; a checkpointed block run twice in one step keeps it."""
        for module in self.adapters:
            module.slice_start = None


def stack_ranks(module: DyLoRAModule, state_dict: dict[str, Tensor], prefix: str, _metadata) -> None:
    """After state_dict(): files and states hold LoRA's two matrices instead of one tensor per rank."""
    rows = [state_dict.pop(f"{prefix}lora_A.{i}") for i in range(module.rank)]
    columns = [state_dict.pop(f"{prefix}lora_B.{i}") for i in range(module.rank)]
    down, up = module.kernels(torch.cat(rows), torch.cat(columns, dim=1))
    state_dict[prefix + "lora_down.weight"], state_dict[prefix + "lora_up.weight"] = down, up


def split_ranks(module: DyLoRAModule, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """Before load_state_dict(): LoRA's two matrices become one tensor per rank."""
    for part, name in (("lora_down.weight", "lora_A"), ("lora_up.weight", "lora_B")):
        matrix = state_dict.pop(prefix + part, None)
        if matrix is not None:
            pieces = matrix.flatten(1).split(1, dim=0 if name == "lora_A" else 1)
            state_dict.update({f"{prefix}{name}.{i}": piece for i, piece in enumerate(pieces)})


def create_network(
    multiplier: float, network_dim: int | None, network_alpha: float | None, vae, text_encoder, unet, neuron_dropout=None, **kwargs
) -> DyLoRANetwork:
    """A fresh network; `kwargs` are the --network_args as text. Raises ValueError for ranks that `unit` does not divide."""
    options = read_options(kwargs)
    dim, unit, conv_dim = 4 if network_dim is None else network_dim, options["unit"] or 1, options["conv_dim"]
    if dim % unit:
        raise ValueError(f"networks.dylora: --network_dim {dim} is no multiple of unit={unit} in --network_args")
    if conv_dim is not None and conv_dim != dim:
        raise ValueError(
            f"networks.dylora: conv_dim={conv_dim} in --network_args must equal --network_dim {dim}; leave it out or make them equal"
        )
    rule = Ranks(dim, 1.0 if network_alpha is None else network_alpha, conv_dim, 1.0 if network_alpha is None else network_alpha)
    targets = ModelTargets.of(text_encoder, unet, with_conv=conv_dim is not None)
    make = partial(DyLoRAModule, unit=unit)
    return assemble(DyLoRANetwork, make, targets, rule, rule, NO_DROPOUT, multiplier, loraplus=loraplus_ratios(options))


def create_network_from_weights(
    multiplier: float, file: str | Path | None, vae, text_encoder, unet, weights_sd: Mapping[str, Tensor] | None = None,
    for_inference: bool = False, neuron_dropout=None, **kwargs,
) -> tuple[DyLoRANetwork, dict[str, Tensor]]:  # fmt: skip
    """A network of the ranks and alphas in `file` (or in `weights_sd`), and the file's tensors; they are not loaded yet."""
    options = read_options(kwargs)
    targets = ModelTargets.of(text_encoder, unet, with_conv=True)
    weights = like_file(load_tensors(file) if weights_sd is None else weights_sd, targets, str(file))
    rule = ranks_of_file(weights, rank_axis("lora_down.weight", 0))
    make = partial(DyLoRAModule, unit=options["unit"] or 1)
    network = assemble(DyLoRANetwork, make, targets, rule, rule, NO_DROPOUT, multiplier, loraplus=loraplus_ratios(options))
    return network, weights


def read_options(given: Mapping) -> dict:
    """The --network_args; dropouts are known here and without effect, as DyLoRA drops ranks by itself."""
    return read_network_args({key: value for key, value in given.items() if key not in NO_DROPOUT}, NETWORK_ARGS, "networks.dylora")
