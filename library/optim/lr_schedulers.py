"""Learning-rate schedulers by name, with the options of the command line, and the numbers to preview them by."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from library.optim.arguments import check_arguments, load_class, nearest, parse_arguments
from library.optim.curves import CURVES, RAMPS, Schedule, parse_step_rules
from library.optim.floored import check_floor
from library.optim.optimizers import BuiltOptimizer
from library.strangers import strangers_code

logger = logging.getLogger(__name__)

FLOORED = ("cosine", "cosine_with_restarts", "linear", "polynomial", "cosine_with_min_lr", "warmup_stable_decay")
EXTRA_ARGUMENTS = {  # what --lr_scheduler_args may hold for each name
    "cosine": ("num_cycles",),
    "polynomial": ("lr_end",),
    "cosine_with_min_lr": ("min_lr",),
    "warmup_stable_decay": ("warmup_type", "decay_type"),
    "piecewise_constant": ("step_rules",),
}
NEVER_WORKED = {  # names the original's command line accepts, though training with them always ended in an error
    "reduce_lr_on_plateau": "it needs a measured loss, which the training loop does not hand to schedulers; use cosine or linear, "
    "with --lr_scheduler_min_lr_ratio if the rate should not fall to 0",
    "cosine_warmup_with_min_lr": "use cosine_with_min_lr, or cosine with --lr_scheduler_min_lr_ratio, both with --lr_warmup_steps",
}


@dataclass(frozen=True)
class ScheduleOptions:
    """A named schedule as the command line gives it.

    total_steps: optimizer steps of the run. warmup_steps, decay_steps: an int is a count of scheduler steps, a float a
    share of all of them. num_processes: scheduler steps per optimizer step. arguments: items of --lr_scheduler_args.
    """

    name: str
    total_steps: int
    warmup_steps: int | float | None = 0
    decay_steps: int | float | None = 0
    num_processes: int = 1
    num_cycles: float = 1
    power: float = 1.0
    timescale: float | None = None
    min_lr_ratio: float | None = None
    arguments: list[str] | tuple[str, ...] = ()


@dataclass(frozen=True)
class ScheduleSummary:
    """What a schedule amounts to. rates are those of the group the schedule was described for; full_rate is what factors multiply.

    mean_factor: mean of the factor over all optimizer steps; schedules of equal mean (times rate) learn about as much.
    """

    name: str
    peak_rate: float
    floor_rate: float
    full_rate: float
    mean_factor: float

    def __str__(self) -> str:
        same = self.mean_factor * self.full_rate
        return (
            f"{self.name}: peak {self.peak_rate:.3g}, floor {self.floor_rate:.3g}, "
            f"mean factor {self.mean_factor:.3f} (learns as much as a constant {same:.3g})"
        )


class NoScheduler:
    """Stands in where the optimizer needs no schedule: steps change nothing, rates are read from the optimizer."""

    def __init__(self, optimizer: Optimizer):
        self.optimizer = optimizer

    def step(self) -> None:
        pass

    def get_last_lr(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]


def build_lr_scheduler(
    built: BuiltOptimizer | Optimizer,
    *,
    name: str,
    scheduler_type: str | None = None,
    arguments: list[str] | None = None,
    warmup_steps: float | None = 0,
    decay_steps: float | None = 0,
    total_steps: int,
    num_processes: int = 1,
    num_cycles: float = 1,
    power: float = 1.0,
    timescale: float | None = None,
    min_lr_ratio: float | None = None,
    schedule_free: bool = False,
):
    """The scheduler of a run; step it `num_processes` times per optimizer step. See ScheduleOptions for the numbers.

    Order: schedule-free optimizers take none, then `scheduler_type` (a class), then `name`. What a BuiltOptimizer says
    about its schedule goes before `name` and `warmup_steps`. Raises ValueError for options that cannot work.
    """
    optimizer = built
    if isinstance(built, BuiltOptimizer):
        optimizer, schedule_free = built.optimizer, built.schedule_free
        if built.learning_rate is None:
            name, warmup_steps = built.lr_scheduler, built.lr_warmup_steps
    options = ScheduleOptions(
        name, total_steps, warmup_steps, decay_steps, num_processes, num_cycles, power, timescale, min_lr_ratio, tuple(arguments or ())
    )
    if schedule_free:
        return NoScheduler(optimizer)
    if scheduler_type:
        return _custom_scheduler(optimizer, scheduler_type, options)
    if name.partition(":")[0] == "adafactor":
        return _adafactor_scheduler(optimizer, name)
    if min_lr_ratio is not None and name in CURVES and name not in FLOORED:
        logger.warning(f"--lr_scheduler_min_lr_ratio has no effect with --lr_scheduler {name}; it works with {', '.join(FLOORED)}")
    return LambdaLR(optimizer, make_curve(options, optimizer.defaults["lr"]))


def make_curve(options: ScheduleOptions, learning_rate: float = 1.0) -> Callable[[int], float]:
    """The factor on the rate as a function of the scheduler's step. learning_rate: the full rate.

    Only names in CURVES have one. Raises ValueError for unknown names and for options that do not go together.
    """
    name = options.name
    if name in NEVER_WORKED:
        raise ValueError(f"--lr_scheduler {name} cannot be used: {NEVER_WORKED[name]}")
    if name not in CURVES:
        raise ValueError(f"unknown --lr_scheduler {name!r}{nearest(name, list(CURVES))}: use one of {', '.join(CURVES)}")
    check_floor(options.min_lr_ratio, "--lr_scheduler_min_lr_ratio")
    all_steps = options.total_steps * options.num_processes
    warmup = _in_steps(options.warmup_steps, all_steps)
    if warmup and name == "constant":
        raise ValueError(f"--lr_scheduler constant has no warm-up, got --lr_warmup_steps {options.warmup_steps}: use constant_with_warmup")
    extra = _extra_arguments(options)
    floor = options.min_lr_ratio
    if name == "cosine_with_min_lr":
        floor = _min_lr_floor(floor, extra, learning_rate)
    if name == "polynomial" and learning_rate <= extra.get("lr_end", 1e-7):
        raise ValueError(
            f"--lr_scheduler polynomial falls to {extra.get('lr_end', 1e-7)}, so the learning rate must be above it, got {learning_rate}"
        )
    schedule = Schedule(
        total=all_steps,
        warmup=warmup,
        decay=_in_steps(options.decay_steps, all_steps),
        num_cycles=options.num_cycles,
        power=options.power,
        timescale=options.timescale,
        floor=floor,
        learning_rate=learning_rate,
        extra=extra,
    )
    return partial(CURVES[name], schedule=schedule)


def schedule_factors(options: ScheduleOptions, learning_rate: float = 1.0) -> list[float]:
    """The factor in force during each optimizer step of the run, total_steps numbers: what a preview plot shows."""
    curve = make_curve(options, learning_rate)
    return [curve(step * options.num_processes) for step in range(options.total_steps)]


def describe_schedule(options: ScheduleOptions, learning_rate: float) -> ScheduleSummary:
    """The numbers of the schedule's line on the console; str() of them is that line."""
    factors = schedule_factors(options, learning_rate)
    end = make_curve(options, learning_rate)(options.total_steps * options.num_processes)
    warmup = -(-_in_steps(options.warmup_steps, options.total_steps * options.num_processes) // options.num_processes)
    return ScheduleSummary(
        name=options.name,
        peak_rate=learning_rate * max(factors),
        floor_rate=learning_rate * min([*factors[warmup:], end] if warmup < len(factors) else factors),
        full_rate=learning_rate,
        mean_factor=sum(factors) / len(factors),
    )


def _in_steps(value: float | None, all_steps: int) -> int:
    """Scheduler steps from an option's value: a float is a share of all steps, an int is a count."""
    if value is None:
        return 0
    return int(value * all_steps) if isinstance(value, float) else value


def _extra_arguments(options: ScheduleOptions) -> dict[str, Any]:
    """--lr_scheduler_args of a named schedule, checked."""
    extra = parse_arguments(list(options.arguments), "--lr_scheduler_args")
    allowed = EXTRA_ARGUMENTS.get(options.name, ())
    for key, value in extra.items():
        if key not in allowed:
            takes = f"it takes {', '.join(allowed)}" if allowed else "it takes none; --lr_scheduler_type is for classes that do"
            raise ValueError(f"--lr_scheduler_args {key}={value!r}: --lr_scheduler {options.name} has no argument {key!r}; {takes}")
        if key in ("warmup_type", "decay_type") and value not in RAMPS:
            raise ValueError(f"--lr_scheduler_args {key}={value!r}: must be one of {', '.join(RAMPS)}")
    if options.name == "piecewise_constant":
        _check_step_rules(extra.get("step_rules"))
    return extra


def _check_step_rules(rules: Any) -> None:
    example = "as in --lr_scheduler_args \"step_rules='1:10,0.1:20,0.01'\" (factor:end step, ..., last factor)"
    if rules is None:
        raise ValueError(f"--lr_scheduler piecewise_constant needs step_rules, {example}")
    try:
        parse_step_rules(str(rules))
    except ValueError as error:
        raise ValueError(f"--lr_scheduler_args step_rules={rules!r} cannot be read; write it {example}") from error


def _min_lr_floor(ratio: float | None, extra: dict[str, Any], learning_rate: float) -> float:
    """The floor of cosine_with_min_lr: a share of the full rate, or as a rate in the argument `min_lr`."""
    given = ratio is not None, "min_lr" in extra
    if given == (False, False) or given == (True, True):
        raise ValueError(
            "--lr_scheduler cosine_with_min_lr needs --lr_scheduler_min_lr_ratio (0 to 1, such as 0.1), or --lr_scheduler_args min_lr=... "
            f"(a rate), got {'both' if all(given) else 'neither'}"
        )
    return ratio if ratio is not None else extra["min_lr"] / learning_rate


def _custom_scheduler(optimizer: Optimizer, scheduler_type: str, options: ScheduleOptions):
    """A class of torch.optim.lr_scheduler, or at a dotted path, with --lr_scheduler_args as its keyword arguments."""
    dotted = scheduler_type if "." in scheduler_type else f"torch.optim.lr_scheduler.{scheduler_type}"
    found = load_class(dotted, "--lr_scheduler_type", scheduler_type)
    if _in_steps(options.warmup_steps, options.total_steps * options.num_processes):
        raise ValueError(
            f"--lr_scheduler_type {scheduler_type} takes no --lr_warmup_steps, got {options.warmup_steps}: set it to 0, "
            "and give a warm-up to the class itself through --lr_scheduler_args if it has one"
        )
    needs_loss = issubclass(found, ReduceLROnPlateau)
    if needs_loss:
        raise ValueError(f"--lr_scheduler_type {scheduler_type} cannot be used: {NEVER_WORKED['reduce_lr_on_plateau']}")
    if any(group["lr"] is None for group in optimizer.param_groups):
        raise ValueError(
            f"--lr_scheduler_type {scheduler_type} cannot be used with an optimizer that sets its own rates: give relative_step=False"
        )
    keywords = parse_arguments(list(options.arguments), "--lr_scheduler_args")
    check_arguments(found, keywords, "--lr_scheduler_args", {"optimizer": ""})
    given = f"--lr_scheduler_type {scheduler_type}" + (f" with --lr_scheduler_args {' '.join(options.arguments)}" if keywords else "")
    with strangers_code(given, "Check --lr_scheduler_args, or take --lr_scheduler cosine"):
        return found(optimizer, **keywords)


def _adafactor_scheduler(optimizer: Optimizer, name: str):
    """Reports the rates that Adafactor sets by itself; "adafactor:0.001" reports 0.001 before the first step."""
    from transformers.optimization import Adafactor, AdafactorSchedule

    initial = name.partition(":")[2]
    if not isinstance(optimizer, Adafactor) or not initial:
        raise ValueError(
            "--lr_scheduler adafactor goes with --optimizer_type AdaFactor and relative_step=True, which choose it by themselves: "
            "leave the option out, or use constant_with_warmup"
        )
    return AdafactorSchedule(optimizer, float(initial))
