"""What LoHa and LoKr share: their rank dropout, their options, and a network with rates by text encoder and by layer pattern."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from networks.arguments import boolean, read_network_args
from networks.changes import Change
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
)  # fmt: skip
from networks.layers import AdapterModule
from networks.max_norm import NormLimited
from networks.network import AdapterNetwork, split_fast
from networks.patterns import ByPattern, kept, pattern_list, values_by_pattern
from networks.ranks import RankOf, RankRule, Ranks, ranks_of_file
from networks.targets import Target

logger = logging.getLogger(__name__)

NETWORK_ARGS = {
    "conv_dim": int, "conv_alpha": float, "use_tucker": boolean, "verbose": boolean,
    "exclude_patterns": pattern_list, "include_patterns": pattern_list,
    "network_reg_dims": values_by_pattern, "network_reg_lrs": values_by_pattern,
    **DROPOUT_ARGS, **LORAPLUS_ARGS, **DORA_ARGS,
}  # fmt: skip


class DeltaModule(AdapterModule):
    """An adapter whose rank dropout leaves out whole outputs, the same for all samples."""

    def dropped(self, change: Change) -> Change:
        p = self.dropout.rank
        if not p or not self.training:
            return change
        keep = torch.rand(self.target.weight_shape[0], device=next(self.parameters()).device) > p
        return change.scaled(outputs=keep.float() / (1 - p))


class DeltaNetwork(NormLimited, AdapterNetwork):
    """A network with one rate per text encoder and rates by layer pattern."""

    def __init__(self, text_encoder_loras, unet_loras, *, rates: ByPattern | None = None, **options):
        """rates: learning rates of layers by their path; such layers form groups of their own."""
        super().__init__(text_encoder_loras, unet_loras, **options)
        self.rates = rates or ByPattern()

    def prepare_optimizer_params_with_multiple_te_lrs(
        self, text_encoder_lr: Sequence[float] | None, unet_lr: float | None, default_lr: float | None
    ) -> tuple[list[dict], list[str]]:
        """Optimizer groups and their names. text_encoder_lr: one rate per text encoder; a short list repeats its first.

        Raises ValueError if no section has a rate above 0.
        """
        encoder_rates = list(text_encoder_lr) if text_encoder_lr else [default_lr]
        groups, names = [], []
        for name, modules, rate, ratio in self._rated_sections(encoder_rates, default_lr if unet_lr is None else unet_lr):
            for suffix, parameters, factor in split_fast(modules, ratio):
                if parameters and rate:
                    groups.append({"params": parameters, "lr": rate * factor})
                    names.append(name + suffix)
        if not groups:
            raise ValueError(
                f"nothing is left to train: --text_encoder_lr {text_encoder_lr}, --unet_lr {unet_lr}, --learning_rate {default_lr}; "
                "give a rate above 0"
            )
        return groups, names

    def _rated_sections(self, encoder_rates, unet_rate) -> Iterator[tuple[str, list[AdapterModule], float | None, float | None]]:
        """(name, modules, rate, LoRA+ ratio): each section's layers with a rate of their own first, then the others."""
        plus = self.loraplus
        sections = []
        for number in (1, 2):
            own = [module for module in self.text_encoder_loras if _encoder_number(module.lora_name) == number]
            rate = encoder_rates[number - 1] if number <= len(encoder_rates) else encoder_rates[0]
            sections.append((f"textencoder {number}", own, rate, plus.text_encoder_ratio or plus.ratio))
        sections.append(("unet", self.unet_loras, unet_rate, plus.unet_ratio or plus.ratio))
        for name, modules, rate, ratio in sections:
            matched = {module: self.rates.index(module.target.path) for module in modules}
            for index, (_, own_rate) in enumerate(self.rates.entries):
                chosen = [module for module in modules if matched[module] == index]
                yield f"{name} reg_lr_{index}", chosen, own_rate, ratio
            yield name, [module for module in modules if matched[module] is None], rate, ratio


def _encoder_number(name: str) -> int:
    return 2 if name.startswith("lora_te2_") else 1


def read_options(given: Mapping[str, Any], module: str, extra: Mapping[str, Callable[[str], Any]] | None = None) -> dict[str, Any]:
    """The --network_args of LoHa and LoKr. --network_dropout has no place in them, so a value given costs a warning."""
    options = read_network_args(given, NETWORK_ARGS | (extra or {}), module)
    if options["dropout"]:
        logger.warning("%s has no neuron dropout: use rank_dropout or module_dropout in --network_args", module)
    return options


def new_network(
    make: MakeModule, options: Mapping[str, Any], multiplier: float,
    network_dim: int | None, network_alpha: float | None, text_encoder, unet,
) -> DeltaNetwork:  # fmt: skip
    """A network with initial weights, ranks the same everywhere or by pattern."""
    alpha = 1.0 if network_alpha is None else network_alpha
    conv_alpha = 1.0 if options["conv_alpha"] is None else options["conv_alpha"]
    plain = Ranks(4 if network_dim is None else network_dim, alpha, options["conv_dim"], conv_alpha)
    targets = ModelTargets.of(text_encoder, unet, with_conv=options["conv_dim"] is not None)
    exclude, include = options["exclude_patterns"], options["include_patterns"]
    chosen = ModelTargets(kept(targets.text_encoder, exclude, include), kept(targets.unet, exclude, include))
    rule = ranks_by_pattern(plain, options["network_reg_dims"], alpha)
    return assemble(DeltaNetwork, make, chosen, rule, rule, options, multiplier, asked_axis(options), **network_options(options))


def network_like_file(
    make_for: Callable[[Mapping[str, Tensor]], MakeModule], rank_of: RankOf, options: Mapping[str, Any], multiplier: float,
    weights: Mapping[str, Tensor], source: str, text_encoder, unet,
) -> tuple[DeltaNetwork, dict[str, Tensor]]:  # fmt: skip
    """A network with the modules, ranks and alphas of `weights`, and `weights` under this suite's names."""
    targets = ModelTargets.of(text_encoder, unet, with_conv=True)
    weights = like_file(weights, targets, source)
    rule = ranks_of_file(weights, rank_of)
    make, axis_of = make_for(weights), stored_axis(weights, options)
    return assemble(DeltaNetwork, make, targets, rule, rule, options, multiplier, axis_of, **network_options(options)), weights


def network_options(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"loraplus": loraplus_ratios(options), "rates": options["network_reg_lrs"]}


def ranks_by_pattern(plain: RankRule, by_pattern: ByPattern | None, alpha: float) -> RankRule:
    """`plain`, but layers that a pattern of network_reg_dims matches take its rank."""
    if by_pattern is None:
        return plain

    def rule(target: Target):
        index = by_pattern.index(target.path)
        return plain(target) if index is None else (int(by_pattern.entries[index][1]), alpha)

    return rule
