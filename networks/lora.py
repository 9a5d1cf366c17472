"""LoRA (arXiv:2106.09685) of Linear and, with conv_dim, of convolution layers: `--network_module networks.lora`.

Keys in the file: `<module>.lora_down.weight`, `<module>.lora_up.weight`, `<module>.alpha`; with dora_wd=True also `<module>.dora_scale`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from library.saving.weights import load_tensors
from networks.arguments import read_network_args
from networks.block_weights import SD_LAYOUT, SDXL_LAYOUT, BlockLayout, block_list, block_rate_weights
from networks.factory import (
    DORA_ARGS,
    DROPOUT_ARGS,
    LORAPLUS_ARGS,
    MakeModule,
    ModelTargets,
    asked_axis,
    assemble,
    like_file,
    loraplus_ratios,
    stored_axis,
    with_dropout,
)  # fmt: skip
from networks.layers import lora_module
from networks.max_norm import NormLimited
from networks.network import AdapterNetwork
from networks.ranks import BlockRanks, Ranks, rank_axis, ranks_of_file
from networks.targets import is_sdxl

NETWORK_ARGS = {
    "conv_dim": int, "conv_alpha": float,
    "block_dims": str, "block_alphas": str, "conv_block_dims": str, "conv_block_alphas": str,
    "down_lr_weight": str, "mid_lr_weight": str, "up_lr_weight": str, "block_lr_zero_threshold": float,
    **DROPOUT_ARGS, **LORAPLUS_ARGS, **DORA_ARGS,
}  # fmt: skip

RANK_OF = rank_axis("lora_down.weight", 0)


class LoRANetwork(NormLimited, AdapterNetwork):
    """All LoRA modules of a model."""


def create_network(
    multiplier: float, network_dim: int | None, network_alpha: float | None, vae, text_encoder, unet, neuron_dropout=None, **kwargs
) -> LoRANetwork:
    """A fresh network; `kwargs` are the --network_args as text. Raises ValueError naming the argument that is wrong."""
    options = with_dropout(read_network_args(kwargs, NETWORK_ARGS, "networks.lora"), neuron_dropout)
    return new_network(LoRANetwork, lora_module, options, multiplier, network_dim, network_alpha, text_encoder, unet)


def create_network_from_weights(
    multiplier: float, file: str | Path | None, vae, text_encoder, unet, weights_sd: Mapping[str, Tensor] | None = None,
    for_inference: bool = False, neuron_dropout=None, **kwargs,
) -> tuple[LoRANetwork, dict[str, Tensor]]:  # fmt: skip
    """A network of the ranks and alphas in `file` (or in `weights_sd`), and the file's tensors; they are not loaded yet."""
    options = with_dropout(read_network_args(kwargs, NETWORK_ARGS, "networks.lora"), neuron_dropout)
    weights = load_tensors(file) if weights_sd is None else weights_sd
    return network_like_file(LoRANetwork, lora_module, options, multiplier, weights, str(file), text_encoder, unet)


def new_network(
    network_class: type[AdapterNetwork], make: MakeModule, options: Mapping[str, Any], multiplier: float,
    network_dim: int | None, network_alpha: float | None, text_encoder, unet,
) -> AdapterNetwork:  # fmt: skip
    """A network with initial weights, ranks the same everywhere or per block."""
    dim = 4 if network_dim is None else network_dim
    alpha = 1.0 if network_alpha is None else network_alpha
    conv_alpha = 1.0 if options["conv_alpha"] is None else options["conv_alpha"]
    plain = Ranks(dim, alpha, options["conv_dim"], conv_alpha)
    layout = SDXL_LAYOUT if is_sdxl(unet) else SD_LAYOUT
    weights = rate_weights(options, layout)
    by_block = options["block_dims"] is not None or weights is not None
    rule = block_ranks(options, plain, layout, weights) if by_block else plain
    with_conv = rule.conv_dims is not None if by_block else plain.conv_dim is not None
    targets = ModelTargets.of(text_encoder, unet, with_conv=with_conv)
    return assemble(
        network_class, make, targets, plain, rule, options, multiplier, asked_axis(options),
        loraplus=loraplus_ratios(options), block_weights=weights,
    )  # fmt: skip


def network_like_file(
    network_class: type[AdapterNetwork], make: MakeModule, options: Mapping[str, Any], multiplier: float,
    weights: Mapping[str, Tensor], source: str, text_encoder, unet,
) -> tuple[AdapterNetwork, dict[str, Tensor]]:  # fmt: skip
    """A network with the modules, ranks and alphas of `weights`, and `weights` under this suite's names."""
    targets = ModelTargets.of(text_encoder, unet, with_conv=True)
    weights = like_file(weights, targets, source)
    rule = ranks_of_file(weights, RANK_OF)
    rates = rate_weights(options, SDXL_LAYOUT if is_sdxl(unet) else SD_LAYOUT)
    network = assemble(
        network_class, make, targets, rule, rule, options, multiplier, stored_axis(weights, options),
        loraplus=loraplus_ratios(options), block_weights=rates,
    )  # fmt: skip
    return network, weights


def rate_weights(options: Mapping[str, Any], layout: BlockLayout) -> list[float] | None:
    """The learning-rate factor of each U-Net block, None if none is given."""
    return block_rate_weights(
        options["down_lr_weight"], options["mid_lr_weight"], options["up_lr_weight"],
        layout=layout, zero_threshold=options["block_lr_zero_threshold"] or 0.0,
    )  # fmt: skip


def block_ranks(options: Mapping[str, Any], plain: Ranks, layout: BlockLayout, weights: list[float] | None) -> BlockRanks:
    """Rank and alpha per block; lists not given repeat the plain values, blocks with rate weight 0 have rank 0."""

    def listed(key, kind, otherwise):
        return [otherwise] * layout.count if options[key] is None else block_list(key, options[key], layout, kind)

    dims = listed("block_dims", int, plain.dim)
    alphas = listed("block_alphas", float, plain.alpha)
    conv_given = options["conv_block_dims"] is not None or plain.conv_dim is not None
    conv_dims = listed("conv_block_dims", int, plain.conv_dim) if conv_given else None
    conv_alphas = listed("conv_block_alphas", float, plain.conv_alpha)
    for index, weight in enumerate(weights or []):
        if weight == 0:
            dims[index] = 0
            if conv_dims:
                conv_dims[index] = 0
    return BlockRanks(dims, alphas, conv_dims, conv_alphas)
