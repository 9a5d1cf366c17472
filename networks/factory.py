"""From options to a network: what all kinds of adapters share when one is made anew or after a file."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from networks.arguments import boolean, probability
from networks.changes import INPUT, OUTPUT
from networks.layers import AdapterModule, Dropout
from networks.magnitude import axis_of as axis_of_magnitude
from networks.network import AdapterNetwork, LoraPlus
from networks.ranks import RankRule
from networks.targets import Target, text_encoder_targets, unet_targets
from networks.weight_files import check_same_family, renamed

logger = logging.getLogger(__name__)

MOST_NAMES = 5  # in a message

DROPOUT_ARGS = {"dropout": probability, "rank_dropout": probability, "module_dropout": probability}
LORAPLUS_ARGS = {"loraplus_lr_ratio": float, "loraplus_unet_lr_ratio": float, "loraplus_text_encoder_lr_ratio": float}

DORA_ARGS = {"dora_wd": boolean, "weight_decompose": boolean, "wd_on_output": boolean}

MakeModule = Callable[[Target, int, float | None, float, Dropout], AdapterModule]
AxisOf = Callable[[Target], str | None]  # the axis of a layer's DoRA magnitude, None for no magnitude


@dataclass(frozen=True)
class ModelTargets:
    """The layers an adapter may wrap, text encoders apart from the U-Net."""

    text_encoder: list[Target]
    unet: list[Target]

    @classmethod
    def of(cls, text_encoder, unet, *, with_conv: bool) -> "ModelTargets":
        return cls(text_encoder_targets(text_encoder), unet_targets(unet, with_conv=with_conv))


def assemble(
    network_class: type[AdapterNetwork], make: MakeModule, targets: ModelTargets, text_encoder_rule: RankRule, unet_rule: RankRule,
    options: Mapping[str, Any], multiplier: float, axis_of: AxisOf | None = None, **network_options,
) -> AdapterNetwork:  # fmt: skip
    """The network with all its modules, decomposed (DoRA) where `axis_of` names an axis.

    Text encoder modules are made, and draw, first, even where they will not be trained.
    """
    dropout = Dropout(options["dropout"], options["rank_dropout"], options["module_dropout"])

    def make_module(target, rank, alpha):
        module = make(target, rank, alpha, multiplier, dropout)
        axis = axis_of(target) if axis_of else None
        if axis is not None:
            module.decompose(axis)
        return module

    text_encoder_loras = build_modules(targets.text_encoder, text_encoder_rule, make_module)
    unet_loras = build_modules(targets.unet, unet_rule, make_module)
    return network_class(text_encoder_loras, unet_loras, multiplier=multiplier, **network_options)


def build_modules(targets: Iterable[Target], rank_of: RankRule, make: Callable[[Target, int, float | None], AdapterModule]) -> list:
    """One adapter per target that `rank_of` gives a rank, in order: this is where initial weights are drawn."""
    modules, skipped = [], []
    for target in targets:
        rank, alpha = rank_of(target) or (None, None)
        if rank:
            modules.append(make(target, rank, alpha))
        elif rank == 0:
            skipped.append(target.name)
    if skipped:
        listed = ", ".join(skipped[:MOST_NAMES]) + (", ..." if len(skipped) > MOST_NAMES else "")
        logger.info("%d layers get no adapter, as their rank or the weight of their block is 0: %s", len(skipped), listed)
    return modules


def like_file(weights: Mapping[str, Tensor], targets: ModelTargets, source: str) -> dict[str, Tensor]:
    """A file's tensors under this suite's names. Raises ValueError naming `source` if none belongs to this model."""
    both = targets.text_encoder + targets.unet
    weights = renamed(weights, [(target.diffusers_name, target.name) for target in both])
    check_same_family(weights, [target.name for target in both], source)
    return weights


def with_dropout(options: dict[str, Any], neuron_dropout: float | None) -> dict[str, Any]:
    """The options with --network_dropout, where it is given, in the place of the `dropout` argument."""
    return options if neuron_dropout is None else options | {"dropout": neuron_dropout}


def loraplus_ratios(options: Mapping[str, Any]) -> LoraPlus:
    return LoraPlus(options["loraplus_lr_ratio"], options["loraplus_unet_lr_ratio"], options["loraplus_text_encoder_lr_ratio"])


def asked_axis(options: Mapping[str, Any]) -> AxisOf:
    """The axis that --network_args ask for, the same for every layer: dora_wd or weight_decompose, and wd_on_output."""
    wanted = options["dora_wd"] or options["weight_decompose"]
    if options["wd_on_output"] is not None and not wanted:
        logger.warning("wd_on_output in --network_args is without effect: it belongs to dora_wd=True")
    axis = (OUTPUT if options["wd_on_output"] else INPUT) if wanted else None
    return lambda target: axis


def stored_axis(weights: Mapping[str, Tensor], options: Mapping[str, Any]) -> AxisOf:
    """The axis each layer's dora_scale has in a file; what --network_args ask for where there is none."""
    asked = asked_axis(options)

    def axis_of(target: Target) -> str | None:
        magnitude = weights.get(f"{target.name}.dora_scale")
        return asked(target) if magnitude is None else axis_of_magnitude(magnitude, target.layer.weight)

    return axis_of
