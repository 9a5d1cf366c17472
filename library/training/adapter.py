"""Loads a network module by name, ours or a stranger's, and makes one trainable network of it.

The module meets kohya's plug-in contract: `create_network`, `create_network_from_weights`, and an object with `apply_to`,
`prepare_optimizer_params`, `save_weights` and so on. Gaps of older modules are filled here, once, and nowhere else.
"""

import importlib
import inspect
import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from library.models.family import Family, Models
from library.strangers import strangers_code
from library.training.accelerator import script_folder
from library.training.memory import store_frozen_weights
from library.training.precision import DTYPES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NetworkSettings:
    """The --network_* options under their own names; `arguments` are the key=value pairs of --network_args, as text."""

    module: str
    dim: int | None = None
    alpha: float = 1
    dropout: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    dim_from_weights: bool = False
    base_weights: Sequence[str] = ()
    base_weights_multiplier: Sequence[float] = ()
    train_unet: bool = True
    train_text_encoder: bool = True


def network_arguments(items: Sequence[str] | None, dropout: float | None, dim_from_weights: bool) -> dict[str, Any]:
    """--network_args as a dict of text, split at the first `=`; `dropout` is added as modules for LyCORIS expect it."""
    arguments: dict[str, Any] = dict(item.split("=", 1) for item in items or ())
    if not dim_from_weights and "dropout" not in arguments:
        arguments["dropout"] = dropout
    return arguments


def network_module(name: str) -> ModuleType:
    """The module --network_module names; the folder of the training scripts is searched as well."""
    folder = str(script_folder())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        module = _imported(name)
    except ModuleNotFoundError as missing:
        if missing.name and name.startswith(missing.name):
            raise ValueError(f"--network_module {name}: there is no module {missing.name!r}; use networks.lora, or install it") from None
        raise ValueError(f"--network_module {name} needs the package {missing.name!r}: pip install {missing.name}") from missing
    lacking = [function for function in ("create_network", "create_network_from_weights") if not hasattr(module, function)]
    if "create_network" in lacking:
        raise ValueError(f"--network_module {name} is no network module: it has no {' and no '.join(lacking)}; use networks.lora")
    return module


def _imported(name: str) -> ModuleType:
    """Raises ModuleNotFoundError, and StrangerFailed for a module that is there and cannot be imported."""
    missing = None
    with strangers_code(f"--network_module {name}: importing it", "Mend the module, or use networks.lora"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as fault:
            missing = fault
    raise missing


def guarded(module: ModuleType, settings: NetworkSettings) -> AbstractContextManager:
    """For calls into a module: what fails in a stranger's is told as theirs, with the arguments it was given."""
    if module.__name__.startswith("networks."):
        return nullcontext()
    given = " ".join(f"{key}={value}" for key, value in settings.arguments.items() if value is not None)
    what = f"--network_module {settings.module}" + (f" with --network_args {given}" if given else "")
    return strangers_code(what, "Check --network_args against what that package's version takes, or update it; networks.lora is ours")


def models_for(module: ModuleType, family: Family, models: Models) -> tuple[Any, nn.Module]:
    """The text encoder argument and the U-Net that a module is given: strangers see them under kohya's names and classes."""
    if module.__name__.startswith("networks."):
        return family.text_encoder_for_network(models), models.unet
    return family.view_for_network(models)


def merge_base_weights(module: ModuleType, settings: NetworkSettings, family: Family, models: Models, *, dtype, device) -> None:
    """Adds each file of --base_weights to the frozen models, times its multiplier (1 where none is given)."""
    text_encoder, unet = models_for(module, family, models)
    for number, file in enumerate(settings.base_weights):
        multiplier = settings.base_weights_multiplier[number] if number < len(settings.base_weights_multiplier) else 1.0
        logger.info("merging %s into the base model, strength %g", file, multiplier)
        with guarded(module, settings):
            network, weights = module.create_network_from_weights(multiplier, file, models.vae, text_encoder, unet, for_inference=True)
            network.merge_to(text_encoder, unet, weights, dtype, device)


def build(settings: NetworkSettings, family: Family, models: Models, args, accelerator: Accelerator) -> nn.Module:
    """Merges --base_weights, settles how the frozen weights are kept, and creates the network of this run."""
    module = network_module(settings.module)
    device = accelerator.device if args.lowram else torch.device("cpu")
    merge_base_weights(module, settings, family, models, dtype=DTYPES[args.mixed_precision], device=device)
    store_frozen_weights(args, models, accelerator)
    with guarded(module, settings):
        return create_network(module, settings, family, models, args)


def create_network(module: ModuleType, settings: NetworkSettings, family: Family, models: Models, args) -> nn.Module:
    """The trainable network, put in place around the models' layers, with --network_weights loaded.

    `args` goes to `prepare_network`, a hook of strangers' modules that takes the whole namespace.
    """
    text_encoder, unet = models_for(module, family, models)
    arguments = dict(settings.arguments)
    if settings.dim_from_weights:
        if settings.dropout is not None:
            arguments["neuron_dropout"] = settings.dropout
        network, _ = module.create_network_from_weights(1, settings.weights, models.vae, text_encoder, unet, **arguments)
    else:
        network = module.create_network(
            1.0, settings.dim, settings.alpha, models.vae, text_encoder, unet, neuron_dropout=settings.dropout, **arguments
        )
    if network is None:
        raise ValueError(f"--network_module {settings.module} made no network with --network_args {list(settings.arguments)}")
    if hasattr(network, "prepare_network"):
        network.prepare_network(args)
    network.apply_to(text_encoder, unet, settings.train_text_encoder, settings.train_unet)
    if settings.weights:
        report = network.load_weights(settings.weights)
        left = getattr(report, "unexpected_keys", None)
        logger.log(logging.WARNING if left else logging.INFO, "network weights from %s: %s", settings.weights, report)
        if left:
            logger.warning("that part of the file is not used: it is not trained here, or it needs other --network_args (conv_dim, ...)")
    return network


@dataclass(frozen=True)
class ParameterGroups:
    """What the optimizer trains. descriptions: the groups' names in logs (`lr/<description>`), None if the module gives none."""

    groups: list[dict]
    descriptions: list[str] | None


def parameter_groups(
    network: nn.Module, *, text_encoder_lr: Sequence[float] | None, unet_lr: float | None, learning_rate: float | None
) -> ParameterGroups:
    """Asks the network for its optimizer groups, in whichever form its module offers.

    Modules without per-encoder rates get the first rate of --text_encoder_lr. Raises ValueError if nothing is left to train.
    """
    rates = list(text_encoder_lr) if text_encoder_lr else None
    if hasattr(network, "prepare_optimizer_params_with_multiple_te_lrs"):
        prepared = network.prepare_optimizer_params_with_multiple_te_lrs(rates, unet_lr, learning_rate)
    else:
        first_rate = rates[0] if rates else None
        positional = [p for p in inspect.signature(network.prepare_optimizer_params).parameters.values() if p.kind <= p.VAR_POSITIONAL]
        old_form = len(positional) == 2 and all(p.kind < p.VAR_POSITIONAL for p in positional)
        arguments = (first_rate, unet_lr) if old_form else (first_rate, unet_lr, learning_rate)
        prepared = network.prepare_optimizer_params(*arguments)
    groups, descriptions = prepared if isinstance(prepared, tuple) else (prepared, None)
    groups = [{**group, "params": list(group["params"])} for group in groups]
    if not groups or not any(group["params"] for group in groups):
        raise ValueError(
            f"nothing is left to train: --learning_rate {learning_rate}, --unet_lr {unet_lr}, --text_encoder_lr {text_encoder_lr}"
            " leave no group with a rate above 0"
        )
    return ParameterGroups(groups, descriptions)


class Hooks:
    """The optional hooks of a network, looked up once: what a module does not have does nothing."""

    def __init__(self, network: nn.Module, text_encoder, unet: nn.Module):
        self.network = network
        self.targets = (text_encoder, unet)
        self._epoch_start = getattr(network, "on_epoch_start", None)
        self._step_start = getattr(network, "on_step_start", None)
        self._backward_done = getattr(network, "backward_done", None)
        self._weights_changed = getattr(network, "weights_changed", None)
        self._norm_hooks = [hook for hook in (getattr(network, name, None) for name in ("update_grad_norms", "update_norms")) if hook]

    def epoch_start(self) -> None:
        """Puts the network in train mode and tells its own hook."""
        self.network.train()
        if self._epoch_start:
            self._epoch_start(*self.targets)

    def step_start(self) -> None:
        """Called before each micro step."""
        if self._step_start:
            self._step_start(*self.targets)

    def backward_done(self) -> None:
        """Called after each backward pass."""
        if self._backward_done:
            self._backward_done()

    def weights_changed(self) -> None:
        """Called when the optimizer has changed the weights."""
        if self._weights_changed:
            self._weights_changed()

    def gradients_ready(self) -> None:
        """Called before each update, when gradients are complete."""
        for hook in self._norm_hooks:
            hook()


def supported_scale_weight_norms(network: nn.Module, limit: float | None) -> float | None:
    """--scale_weight_norms, or None with a warning if the network cannot do it."""
    if limit is not None and not hasattr(network, "apply_max_norm_regularization"):
        logger.warning("--scale_weight_norms %g is off: this --network_module cannot limit its norms", limit)
        return None
    return limit


def trainable_parameters(network: nn.Module, groups: Sequence[dict], *, strict_compat: bool) -> list[nn.Parameter]:
    """The parameters whose gradients count in clipping: those of the optimizer's groups.

    strict_compat: all of the network's, also of groups dropped for a rate of 0, whose gradients are never cleared.
    """
    if strict_compat:
        return list(network.get_trainable_params())
    chosen = {id(parameter) for group in groups for parameter in group["params"]}
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    return [parameter for group in groups for parameter in group["params"]]
