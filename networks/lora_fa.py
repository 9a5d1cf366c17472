"""LoRA-FA (arXiv:2308.03303): LoRA whose down matrices are frozen at random values: `--network_module networks.lora_fa`.

The file has LoRA's keys, frozen matrices included.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from library.saving.weights import load_tensors
from networks.arguments import read_network_args
from networks.factory import with_dropout
from networks.layers import LoRAConv, LoRALinear, LoRAModule
from networks.lora import NETWORK_ARGS, LoRANetwork, network_like_file, new_network


class FrozenDown(LoRAModule):
    """down drawn from a normal distribution of variance 2 / (in + rank) and never trained; `in` counts channels only."""

    def init_weights(self) -> None:
        down = self.lora_down.weight
        nn.init.normal_(down, std=math.sqrt(2 / (down.shape[0] + down.shape[1])))
        nn.init.zeros_(self.lora_up.weight)
        down.requires_grad_(False)

    def trained_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self.named_parameters() if "lora_up" in name)


class FrozenDownLinear(FrozenDown, LoRALinear):
    """LoRA-FA of a Linear layer."""


class FrozenDownConv(FrozenDown, LoRAConv):
    """LoRA-FA of a Conv2d."""


def lora_fa_module(target, rank, alpha, multiplier, dropout) -> FrozenDown:
    kind = FrozenDownLinear if isinstance(target.layer, nn.Linear) else FrozenDownConv
    return kind(target, rank, alpha, multiplier, dropout)


def create_network(
    multiplier: float, network_dim: int | None, network_alpha: float | None, vae, text_encoder, unet, neuron_dropout=None, **kwargs
) -> LoRANetwork:
    """A fresh network; `kwargs` are the --network_args as text, those of networks.lora."""
    options = with_dropout(read_network_args(kwargs, NETWORK_ARGS, "networks.lora_fa"), neuron_dropout)
    return new_network(LoRANetwork, lora_fa_module, options, multiplier, network_dim, network_alpha, text_encoder, unet)


def create_network_from_weights(
    multiplier: float, file: str | Path | None, vae, text_encoder, unet, weights_sd: Mapping[str, Tensor] | None = None,
    for_inference: bool = False, neuron_dropout=None, **kwargs,
) -> tuple[LoRANetwork, dict[str, Tensor]]:  # fmt: skip
    """A network of the ranks and alphas in `file` (or in `weights_sd`), and the file's tensors; they are not loaded yet."""
    options = with_dropout(read_network_args(kwargs, NETWORK_ARGS, "networks.lora_fa"), neuron_dropout)
    weights = load_tensors(file) if weights_sd is None else weights_sd
    return network_like_file(LoRANetwork, lora_fa_module, options, multiplier, weights, str(file), text_encoder, unet)
