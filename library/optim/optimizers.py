"""The table of optimizers and the rules for building one from the command line."""

import logging
from dataclasses import dataclass
from typing import Any

import torch

from library.optim.arguments import check_arguments, load_class, nearest, parse_arguments
from library.strangers import strangers_code

logger = logging.getLogger(__name__)

# Classes under library.optim are faster forms of the packages' classes, which stay reachable by their own dotted names.
OPTIMIZERS = {
    "adamw": "torch.optim.AdamW",
    "lion": "library.optim.lion.Lion",
    "adamw8bit": "library.optim.eight_bit.AdamW8bit",
    "lion8bit": "library.optim.eight_bit.Lion8bit",
    "pagedadamw": "bitsandbytes.optim.PagedAdamW",
    "pagedadamw8bit": "bitsandbytes.optim.PagedAdamW8bit",
    "pagedadamw32bit": "bitsandbytes.optim.PagedAdamW32bit",
    "pagedlion8bit": "bitsandbytes.optim.PagedLion8bit",
    "sgdnesterov": "torch.optim.SGD",
    "sgdnesterov8bit": "library.optim.eight_bit.SGD8bit",
    "dadaptation": "library.optim.dadapt.DAdaptAdamPreprint",
    "dadaptadampreprint": "library.optim.dadapt.DAdaptAdamPreprint",
    "dadaptadagrad": "library.optim.dadapt_dual_averaging.DAdaptAdaGrad",
    "dadaptadam": "library.optim.dadapt.DAdaptAdam",
    "dadaptadan": "library.optim.dadapt_adan.DAdaptAdan",
    "dadaptadanip": "library.optim.dadapt_adan.DAdaptAdanIP",
    "dadaptlion": "library.optim.dadapt.DAdaptLion",
    "dadaptsgd": "library.optim.dadapt_dual_averaging.DAdaptSGD",
    "prodigy": "library.optim.prodigy.Prodigy",
    "adafactor": "library.optim.adafactor.Adafactor",
    "adamwschedulefree": "schedulefree.AdamWScheduleFree",
    "radamschedulefree": "schedulefree.RAdamScheduleFree",
    "sgdschedulefree": "schedulefree.SGDScheduleFree",
}

# torch's optimizers whose fused form updates all tensors in a few launches, in fp32 inside, and can leave a step out on the device.
# Not SGD: its fused form fails when a parameter has its first gradient in a later step, as with module_dropout.
FUSED = {"Adam", "AdamW"}
OTHER_FORMS = {"fused", "foreach", "differentiable", "capturable"}

# Rate-finding optimizers that follow one rate only: a second one makes the others stop in their first step.
ONE_RATE_ONLY = {"Prodigy", "DAdaptAdam", "DAdaptAdamPreprint", "DAdaptLion", "DAdaptSGD"}

RESERVED = {"params": "", "lr": "--learning_rate"}


@dataclass
class BuiltOptimizer:
    """An optimizer with what the recipe must know about it.

    class_name, arguments_text: as files record them, "torch.optim.adamw.AdamW" and "eps=1e-06,betas=(0.8, 0.95)".
    learning_rate: None when the optimizer sets its own rates; then every other rate option counts as unset too.
    lr_scheduler, lr_warmup_steps: the schedule to build; differ from the user's where the optimizer sets its own rates.
    schedule_free: to be switched to eval mode around sampling, validation and saving.
    adapts_rate: finds a rate d, so d*lr is logged; of the first group only when `one_adapted_rate`.
    """

    optimizer: torch.optim.Optimizer
    class_name: str
    arguments_text: str
    learning_rate: float | None
    lr_scheduler: str
    lr_warmup_steps: int | float | None
    schedule_free: bool
    adapts_rate: bool
    one_adapted_rate: bool

    @property
    def name(self) -> str:
        """What metadata calls it (ss_optimizer)."""
        return f"{self.class_name}({self.arguments_text})" if self.arguments_text else self.class_name


def optimizer_class(name: str) -> type:
    """The class behind an --optimizer_type: a name in OPTIMIZERS (any case), a class of torch.optim, or a dotted path.

    "" is AdamW. Raises ValueError for unknown names, ImportError for a package that is not installed.
    """
    known = OPTIMIZERS.get(name.lower() or "adamw")
    if known:
        return load_class(known, "--optimizer_type", name)
    if "." in name:
        return load_class(name, "--optimizer_type", name)
    in_torch = {
        key: value for key, value in vars(torch.optim).items() if isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
    }
    if name in in_torch:
        return in_torch[name]
    hint = nearest(name, list(in_torch)) or nearest(name.lower(), list(OPTIMIZERS))
    raise ValueError(
        f"unknown --optimizer_type {name!r}{hint}: use one of {', '.join(OPTIMIZERS)} (in any case), the exact name of a class in "
        "torch.optim such as RAdam, or a dotted path such as bitsandbytes.optim.AdEMAMix8bit"
    )


def has_fused_form(found: type) -> bool:
    """Whether torch has a fused form of the class for GPUs and for the CPU alike."""
    return found.__module__.startswith("torch.optim") and found.__name__ in FUSED


def recorded_name(found: type) -> str:
    """The class as files name it: for our faster forms the package's class that they stand in for."""
    package_class = next(base for base in found.__mro__ if not base.__module__.startswith("library.optim."))
    return f"{package_class.__module__}.{package_class.__name__}"


def chosen_type(optimizer_type: str, use_8bit_adam: bool, use_lion_optimizer: bool) -> str:
    """The optimizer's name once the two old switches are taken into account. Raises ValueError where they contradict."""
    if use_8bit_adam and use_lion_optimizer:
        raise ValueError("--use_8bit_adam and --use_lion_optimizer exclude each other: choose one with --optimizer_type")
    switch = "--use_8bit_adam" if use_8bit_adam else "--use_lion_optimizer" if use_lion_optimizer else ""
    if switch and optimizer_type:
        raise ValueError(f"{switch} and --optimizer_type {optimizer_type} exclude each other: leave out {switch}")
    return "AdamW8bit" if use_8bit_adam else "Lion" if use_lion_optimizer else optimizer_type or "AdamW"


def build_optimizer(
    optimizer_type: str,
    arguments: list[str] | None,
    param_groups: list[dict[str, Any]],
    *,
    learning_rate: float,
    lr_scheduler: str = "constant",
    lr_warmup_steps: float | None = 0,
    max_grad_norm: float = 1.0,
    use_8bit_adam: bool = False,
    use_lion_optimizer: bool = False,
    fused: bool = True,
) -> BuiltOptimizer:
    """The optimizer over `param_groups`, which stay as they are. arguments: the `key=value` items of --optimizer_args.

    fused: take torch's fused form where there is one and the arguments do not choose another.
    Raises ValueError for options that cannot work, MissingPackage for a missing package.
    """
    optimizer_type = chosen_type(optimizer_type, use_8bit_adam, use_lion_optimizer)
    found = optimizer_class(optimizer_type)
    keywords = parse_arguments(arguments, "--optimizer_args")
    check_arguments(found, keywords, "--optimizer_args", RESERVED)
    groups = [dict(group) for group in param_groups]
    if not groups:
        raise ValueError("nothing to train: every parameter has the learning rate 0; set --learning_rate, --unet_lr or --text_encoder_lr")

    kind = optimizer_type.lower()
    fixed = {"fused": True} if fused and has_fused_form(found) and not OTHER_FORMS & keywords.keys() else {}
    rate: float | None = learning_rate
    if kind.startswith("sgdnesterov"):
        fixed["nesterov"] = True
        _add_momentum(keywords)
    if kind == "adafactor" and _own_rate(keywords):
        lr_scheduler, lr_warmup_steps = _hand_over_rate(groups, learning_rate, lr_warmup_steps)
        rate = None
    elif kind == "adafactor":
        _warn_unusual_adafactor(keywords, lr_scheduler, max_grad_norm)
    if kind.startswith("dadapt") or kind.endswith("prodigy"):
        _check_adaptive_rates(found, [group.get("lr", learning_rate) for group in groups])

    given = f"--optimizer_type {optimizer_type}" + (f" with --optimizer_args {' '.join(arguments)}" if arguments else "")
    with strangers_code(given, "Check --optimizer_args, or take --optimizer_type AdamW"):
        optimizer = found(groups, lr=rate, **fixed, **keywords)
    if callable(getattr(optimizer, "train", None)):
        optimizer.train()
    return BuiltOptimizer(
        optimizer=optimizer,
        class_name=recorded_name(found),
        arguments_text=",".join(f"{key}={value}" for key, value in keywords.items()),
        learning_rate=rate,
        lr_scheduler=lr_scheduler,
        lr_warmup_steps=lr_warmup_steps,
        schedule_free=kind.endswith("schedulefree"),
        adapts_rate=kind.startswith("dadapt") or kind == "prodigy" or kind.endswith("prodigyplusschedulefree"),
        one_adapted_rate=kind.endswith("prodigyplusschedulefree"),
    )


def _add_momentum(keywords: dict[str, Any]) -> None:
    """Nesterov's rule is nothing without momentum, so it gets the usual one."""
    if "momentum" not in keywords:
        logger.info("SGDNesterov: no momentum in --optimizer_args, using momentum=0.9")
        keywords["momentum"] = 0.9


def _own_rate(keywords: dict[str, Any]) -> bool:
    """Settles Adafactor's relative_step, which is on unless switched off, and says whether it sets its own rates."""
    keywords.setdefault("relative_step", True)
    if keywords.get("warmup_init") and not keywords["relative_step"]:
        logger.warning("Adafactor: warmup_init=True works with relative_step=True only, which is switched on")
        keywords["relative_step"] = True
    return bool(keywords["relative_step"])


def _hand_over_rate(groups: list[dict[str, Any]], learning_rate: float, lr_warmup_steps: float | None) -> tuple[str, int]:
    """Adafactor with relative_step sets every rate itself: takes the rates out of `groups`; returns its schedule and warm-up."""
    if learning_rate:
        logger.warning(f"Adafactor with relative_step=True: --learning_rate {learning_rate} is the initial rate only")
    if any(group.get("lr") is not None for group in groups):
        logger.warning("Adafactor with relative_step=True: --unet_lr, --text_encoder_lr and other rates of single parts have no effect")
    if lr_warmup_steps:
        logger.warning(
            f"Adafactor with relative_step=True: --lr_warmup_steps {lr_warmup_steps} has no effect; use warmup_init=True instead"
        )
    for group in groups:
        group.pop("lr", None)
    return f"adafactor:{learning_rate}", 0


def _warn_unusual_adafactor(keywords: dict[str, Any], lr_scheduler: str, max_grad_norm: float) -> None:
    """Points out settings unusual for Adafactor at a rate given from outside (Hugging Face's advice on it)."""
    if max_grad_norm != 0.0:
        logger.warning(f"Adafactor clips by itself: --max_grad_norm 0 is usual with it, got {max_grad_norm}")
    if lr_scheduler != "constant_with_warmup":
        logger.warning(f"Adafactor with relative_step=False: --lr_scheduler constant_with_warmup is usual with it, got {lr_scheduler}")
    if keywords.get("clip_threshold", 1.0) != 1.0:
        logger.warning(f"Adafactor with relative_step=False: clip_threshold=1.0 is usual with it, got {keywords['clip_threshold']}")


def _check_adaptive_rates(found: type, rates: list[float]) -> None:
    """D-Adaptation and Prodigy find the rate themselves; the given one is a factor on it, the same for all parameters."""
    if rates[0] is not None and rates[0] <= 0.1:
        logger.warning(
            f"{found.__name__} finds the learning rate itself and multiplies it by the given one: {rates[0]} is very low, use 1.0"
        )
    distinct = sorted({rate for rate in rates if rate})
    if len(distinct) < 2:
        return
    if found.__name__ in ONE_RATE_ONLY:
        raise ValueError(
            f"--optimizer_type {found.__name__} allows one learning rate only (or 0), got {', '.join(map(str, distinct))}: "
            "give --learning_rate, --unet_lr and --text_encoder_lr the same value and leave out loraplus_* and *_lr_weight in "
            "--network_args, or use --optimizer_type prodigyplus.ProdigyPlusScheduleFree, which finds a rate for each group"
        )
    logger.warning(f"{found.__name__} follows one learning rate only: of {', '.join(map(str, rates))} the first is used")
