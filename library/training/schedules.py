"""The learning-rate schedule of the options: built, tried, and shown as one line of numbers or as a picture of the curve."""

import contextlib
import io
import logging
import warnings
from argparse import Namespace
from dataclasses import fields, replace
from pathlib import Path

import torch

from library.optim.lr_schedulers import ScheduleOptions, ScheduleSummary, build_lr_scheduler, describe_schedule, schedule_factors
from library.optim.optimizers import BuiltOptimizer, build_optimizer
from library.strangers import strangers_code

logger = logging.getLogger(__name__)


def schedule_options(
    args: Namespace, total_steps: int, processes: int, *, name: str | None = None, warmup_steps: float | None = None
) -> ScheduleOptions:
    """The --lr_scheduler* options. name, warmup_steps: in place of the user's, where the optimizer has a say in them."""
    return ScheduleOptions(
        name=args.lr_scheduler if name is None else name,
        total_steps=total_steps,
        warmup_steps=args.lr_warmup_steps if warmup_steps is None else warmup_steps,
        decay_steps=args.lr_decay_steps,
        num_processes=processes,
        num_cycles=args.lr_scheduler_num_cycles,
        power=args.lr_scheduler_power,
        timescale=args.lr_scheduler_timescale,
        min_lr_ratio=args.lr_scheduler_min_lr_ratio,
        arguments=tuple(args.lr_scheduler_args or ()),
    )


def rate_factors(options: ScheduleOptions, scheduler_type: str, learning_rate: float) -> list[float]:
    """The share of the full rate in force during each optimizer step, total_steps numbers; classes are stepped through once."""
    if not scheduler_type:
        return schedule_factors(options, learning_rate)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=learning_rate)
    keywords = {"arguments": list(options.arguments), "warmup_steps": options.warmup_steps}
    scheduler = build_lr_scheduler(
        optimizer,
        name=options.name,
        scheduler_type=scheduler_type,
        total_steps=options.total_steps,
        num_processes=options.num_processes,
        **keywords,
    )
    factors = []
    for step in range(options.total_steps):
        factors.append(optimizer.param_groups[0]["lr"] / learning_rate)
        optimizer.step()
        for _ in range(options.num_processes if step + 1 < options.total_steps else 0):
            scheduler.step()
    return factors


def summary(options: ScheduleOptions, scheduler_type: str, learning_rate: float) -> ScheduleSummary:
    """Peak, floor and mean of the curve; the mean is over all steps, so that schedules can be compared by how much they learn."""
    if not scheduler_type:
        return replace(describe_schedule(options, learning_rate), name=described(options))
    factors = rate_factors(options, scheduler_type, learning_rate)
    floor = min(factors[factors.index(max(factors)) :])
    return ScheduleSummary(
        scheduler_type, max(factors) * learning_rate, floor * learning_rate, learning_rate, sum(factors) / len(factors)
    )


def schedule_line(args: Namespace, built: BuiltOptimizer, total_steps: int, processes: int) -> str:
    """The schedule's line on the console."""
    if built.schedule_free:
        return "none, the optimizer needs no schedule"
    if built.learning_rate is None:
        return f"none, {built.class_name.rpartition('.')[2]} sets its own rates"
    options = schedule_options(args, total_steps, processes, name=built.lr_scheduler, warmup_steps=built.lr_warmup_steps)
    highest = max(group.get("initial_lr", group["lr"]) for group in built.optimizer.param_groups)
    return str(summary(options, args.lr_scheduler_type, float(highest) or full_rate(args)))


def full_rate(args: Namespace) -> float:
    """The highest rate that anything is trained with, what the curve is shown for; 1 if there is none."""
    rates = []
    if not args.network_train_text_encoder_only:
        rates.append(args.learning_rate if args.unet_lr is None else args.unet_lr)
    if not args.network_train_unet_only:
        rates += args.text_encoder_lr or [args.learning_rate]
    return max((rate for rate in rates if rate), default=1.0)


def described(options: ScheduleOptions) -> str:
    """The schedule's name with what shapes it."""
    parts = [options.name]
    if options.name == "cosine_with_restarts":
        parts.append(f"{options.num_cycles} cycles")
    if options.warmup_steps:
        warmup = options.warmup_steps
        parts.append(f"warm-up over {warmup:.0%} of the steps" if isinstance(warmup, float) else f"{warmup} warm-up steps")
    return ", ".join(parts)


def draw_preview(path: Path, options: ScheduleOptions, scheduler_type: str, learning_rate: float) -> str:
    """Draws the rate over the steps as a picture; returns the summary line. Raises ValueError without matplotlib."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise ValueError("--lr_scheduler_preview needs the package matplotlib: pip install matplotlib, or leave it out") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    factors = rate_factors(options, scheduler_type, learning_rate)
    line = str(summary(options, scheduler_type, learning_rate))
    figure, axes = pyplot.subplots(figsize=(9, 3.5), layout="constrained")
    axes.plot(range(1, len(factors) + 1), [factor * learning_rate for factor in factors])
    axes.axhline(sum(factors) / len(factors) * learning_rate, linestyle=":", color="gray", label="mean")
    axes.set(xlabel="optimizer step", ylabel="learning rate", ylim=(0, None))
    axes.set_title(line, fontsize="small", wrap=True)
    axes.legend()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except OSError as fault:
        raise ValueError(f"--lr_scheduler_preview {path} cannot be written: {fault.strerror}; give another place") from fault
    pyplot.close(figure)
    return line


def trial_optimizer(args: Namespace) -> BuiltOptimizer:
    """The optimizer of the options over a single number, to see what it makes of its settings."""
    return build_optimizer(
        args.optimizer_type,
        args.optimizer_args or [],
        [{"params": [torch.nn.Parameter(torch.zeros(1, 1))], "lr": full_rate(args)}],
        learning_rate=args.learning_rate,
        lr_scheduler=args.lr_scheduler,
        lr_warmup_steps=args.lr_warmup_steps,
        max_grad_norm=args.max_grad_norm,
        use_8bit_adam=args.use_8bit_adam,
        use_lion_optimizer=args.use_lion_optimizer,
    )


def build_schedule(args: Namespace, built: BuiltOptimizer, total_steps: int, processes: int):
    """The learning-rate schedule over all of the run's updates."""
    options = schedule_options(args, total_steps, processes, name=built.lr_scheduler, warmup_steps=built.lr_warmup_steps)
    if built.schedule_free:
        tell_of_schedules_without_effect(args, built)
    elif options.warmup_steps and not isinstance(options.warmup_steps, float) and options.warmup_steps >= total_steps > 1:
        logger.warning("--lr_warmup_steps %d: the run has %d steps, so the full rate is never reached", options.warmup_steps, total_steps)
    keywords = {field.name: getattr(options, field.name) for field in fields(options)}
    return build_lr_scheduler(built, scheduler_type=args.lr_scheduler_type, **keywords)


def tell_of_schedules_without_effect(args: Namespace, built: BuiltOptimizer) -> None:
    """Schedule-free optimizers follow no schedule of others."""
    name = built.class_name.rpartition(".")[2]
    if args.lr_warmup_steps:
        logger.warning(
            "--lr_warmup_steps %s has no effect with %s: give --optimizer_args warmup_steps=N", args.lr_warmup_steps, name
        )
    if args.lr_scheduler not in ("constant", "constant_with_warmup"):
        logger.warning("--lr_scheduler %s has no effect: %s needs no schedule", args.lr_scheduler, name)


def check_settings(args: Namespace, total_steps: int | None, processes: int) -> None:
    """Builds optimizer and schedule over a single number, so that what is wrong with their settings is told before a model is loaded.

    total_steps: None, where it is not known yet, leaves the schedule out. Raises ValueError; what is merely odd is told when they are
    built in earnest.
    """
    quiet = [logging.getLogger("library.optim"), logger]
    levels = [one.level for one in quiet]
    for one in quiet:
        one.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # dadaptation and prodigyopt print what they are set to
            built = trial_optimizer(args)
        if total_steps is None:
            return
        schedule = build_schedule(args, built, total_steps, processes)
        if args.lr_scheduler_type and not built.schedule_free:
            with strangers_code(f"--lr_scheduler_type {args.lr_scheduler_type}", "Check --lr_scheduler_args"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of schedule steps without optimizer steps
                schedule.step()
    finally:
        for one, level in zip(quiet, levels, strict=True):
            one.setLevel(level)


def preview(args: Namespace, total_steps: int, processes: int) -> None:
    """What --lr_scheduler_preview does: draws the curve and prints its line. Raises ValueError where there is no curve."""
    rate, built = full_rate(args), trial_optimizer(args)
    if built.schedule_free or built.learning_rate is None:
        name = built.class_name.rpartition(".")[2]
        raise ValueError(f"--lr_scheduler_preview {args.lr_scheduler_preview}: {name} sets its own rates, so there is no curve to draw")
    line = draw_preview(Path(args.lr_scheduler_preview), schedule_options(args, total_steps, processes), args.lr_scheduler_type, rate)
    print(f"{total_steps:,} steps, {line}\ndrawn in {args.lr_scheduler_preview}")
