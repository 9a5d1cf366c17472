"""Optimizer and schedule: names nobody knows, settings nobody can read, pairs that exclude each other."""

import logging
from argparse import Namespace
from collections.abc import Iterator
from difflib import get_close_matches

from library.args.names import (
    KEY_VALUE_LISTS,
    LR_SCHEDULERS,
    OPTIMIZERS,
    TORCH_OPTIMIZERS,
    needs_no_schedule,
    optimizer_kind,
    sets_its_own_rate,
)

logger = logging.getLogger(__name__)

UNFIT = {"LBFGS": "computes the loss several times in a step, which training here does not", "SparseAdam": "is for sparse gradients only"}


def optimizer_problems(args: Namespace, script: str) -> Iterator[str]:
    if args.use_8bit_adam and args.use_lion_optimizer:
        yield "--use_8bit_adam and --use_lion_optimizer exclude each other: choose one with --optimizer_type"
    for switch, name in (("use_8bit_adam", "AdamW8bit"), ("use_lion_optimizer", "Lion")):
        if getattr(args, switch) and args.optimizer_type:
            yield (
                f"--{switch} is an old form of --optimizer_type {name} and contradicts --optimizer_type {args.optimizer_type}: "
                f"leave one of them out"
            )
    if _is_misspelt(args.optimizer_type):
        yield (
            f"--optimizer_type {args.optimizer_type}: there is no such optimizer{_nearest(args.optimizer_type, _all_optimizers())}; "
            f"use one of {', '.join(OPTIMIZERS)}, the exact name of a torch.optim class such as RAdam, or a dotted path"
        )
    if args.optimizer_type in UNFIT:
        yield f"--optimizer_type {args.optimizer_type} {UNFIT[args.optimizer_type]}: use AdamW"
    if args.fused_backward_pass and optimizer_kind(args) != "adafactor":
        yield f"--fused_backward_pass works with --optimizer_type Adafactor only, not {optimizer_kind(args)}: leave it out"
    if args.fused_backward_pass and args.gradient_accumulation_steps != 1:
        yield (
            f"--fused_backward_pass cannot add up gradients: leave it out, or --gradient_accumulation_steps "
            f"{args.gradient_accumulation_steps}"
        )


def schedule_problems(args: Namespace, script: str) -> Iterator[str]:
    if needs_no_schedule(args) or sets_its_own_rate(args):
        return
    if args.lr_scheduler_type:
        if args.lr_warmup_steps:
            yield (
                f"--lr_warmup_steps {args.lr_warmup_steps}: the class --lr_scheduler_type {args.lr_scheduler_type} has no warm-up; "
                f"leave it out, or use a --lr_scheduler with one"
            )
        return
    if args.lr_scheduler not in LR_SCHEDULERS:
        yield (
            f"--lr_scheduler {args.lr_scheduler}: there is no such schedule{_nearest(args.lr_scheduler, LR_SCHEDULERS)}; "
            f"use one of {', '.join(LR_SCHEDULERS)}, or a class with --lr_scheduler_type"
        )
    if args.lr_scheduler == "cosine" and args.lr_scheduler_num_cycles != 1:
        logger.warning(
            "--lr_scheduler_num_cycles %s has no effect with --lr_scheduler cosine: waves come with cosine_with_restarts",
            args.lr_scheduler_num_cycles,
        )
    if args.lr_scheduler == "adafactor":
        yield "--lr_scheduler adafactor works with --optimizer_type Adafactor and relative_step=True only: use constant or cosine"
    if args.lr_scheduler == "constant" and args.lr_warmup_steps:
        yield (
            f"--lr_warmup_steps {args.lr_warmup_steps}: --lr_scheduler constant has no warm-up; "
            f"use --lr_scheduler constant_with_warmup, or leave the warm-up out"
        )


def share_problems(args: Namespace, script: str) -> Iterator[str]:
    for name in ("lr_warmup_steps", "lr_decay_steps"):
        value = getattr(args, name)
        if isinstance(value, float) and value > 1:
            yield f"--{name} {value}: as a share it must be 1 or less, as a number of steps it must be whole"


def key_value_problems(args: Namespace, script: str) -> Iterator[str]:
    for name in KEY_VALUE_LISTS:
        for item in getattr(args, name) or []:
            key, equals, _ = item.partition("=")
            if not equals or not key.strip():
                yield f"--{name} {item!r} is not of the form key=value: write it without blanks around =, or in quotes"


def _is_misspelt(name: str) -> bool:
    """A plain name in neither list; one in capitals that resembles none may still be a class that torch.optim has gained."""
    if not name or "." in name or name in TORCH_OPTIMIZERS or name.lower() in {known.lower() for known in OPTIMIZERS}:
        return False
    return not name[0].isupper() or bool(_nearest(name, _all_optimizers()))


def _all_optimizers() -> tuple[str, ...]:
    return OPTIMIZERS + TORCH_OPTIMIZERS


def _nearest(name: str, names: tuple[str, ...]) -> str:
    in_lower_case = {known.lower(): known for known in names}
    near = get_close_matches(name.lower(), in_lower_case, n=1)
    return f" (did you mean {in_lower_case[near[0]]}?)" if near else ""
