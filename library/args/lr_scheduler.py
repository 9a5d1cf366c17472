"""Options for how the learning rate changes over the run."""

from argparse import ArgumentParser, ArgumentTypeError
from argparse import _ArgumentGroup as Group


def add_lr_scheduler_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("learning rate schedule")
    group.add_argument(
        "--lr_scheduler",
        type=str,
        default="constant",
        metavar="NAME",
        help="constant, constant_with_warmup, linear, cosine, cosine_with_restarts, polynomial, inverse_sqrt, "
        "cosine_with_min_lr, warmup_stable_decay, piecewise_constant or adafactor (default: constant)",
    )
    group.add_argument(
        "--lr_scheduler_type",
        type=str,
        default="",
        metavar="CLASS",
        help="class of torch.optim.lr_scheduler, or a dotted path, in place of --lr_scheduler (default: none)",
    )
    group.add_argument(
        "--lr_scheduler_args",
        type=str,
        default=None,
        nargs="*",
        metavar="KEY=VALUE",
        help="the scheduler's own settings, such as T_max=1000 eta_min=1e-7 (default: none)",
    )
    group.add_argument(
        "--lr_warmup_steps",
        type=int_or_float,
        default=0,
        metavar="STEPS",
        help="optimizer steps over which the rate rises from 0: a number, a share such as 0.1, or 10%% (default: 0)",
    )
    group.add_argument(
        "--lr_decay_steps",
        type=int_or_float,
        default=0,
        metavar="STEPS",
        help="steps of the fall at the end for warmup_stable_decay, in the same forms (default: 0)",
    )
    add_shape_arguments(group)


def add_shape_arguments(group: Group) -> None:
    """Numbers that shape single schedules."""
    group.add_argument(
        "--lr_scheduler_num_cycles", type=int, default=1, metavar="N", help="number of cosine waves for cosine_with_restarts (default: 1)"
    )
    group.add_argument(
        "--lr_scheduler_power",
        type=float,
        default=1,
        metavar="POWER",
        help="power of the polynomial schedule; 1 is a straight line (default: 1)",
    )
    group.add_argument(
        "--lr_scheduler_timescale",
        type=int,
        default=None,
        metavar="STEPS",
        help="time scale of inverse_sqrt in steps (default: the warm-up steps)",
    )
    group.add_argument(
        "--lr_scheduler_min_lr_ratio",
        type=float,
        default=None,
        metavar="RATIO",
        help="floor under the curve as a share of the highest rate, 0 to 1: for cosine, cosine_with_restarts, linear, polynomial, "
        "cosine_with_min_lr and warmup_stable_decay; 0.1 to 0.5 keeps the end of each wave learning (default: none)",
    )


def int_or_float(text: str) -> int | float:
    """Reads a step count (whole, 1 or more) as an int, and a share of all steps ("0.1" or "10%") as a float. "0" is 0.0."""
    try:
        if text.endswith("%"):
            return float(text[:-1]) / 100
        number = float(text)
        return int(text) if number >= 1 else number
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is neither a whole number of steps, a share below 1 nor a per cent value such as 10%") from None
