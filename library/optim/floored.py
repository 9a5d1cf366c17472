"""Cosine restarts that never fall below a floor, as a scheduler class of its own.

For --lr_scheduler_type library.optim.floored.FlooredCosineRestarts with --lr_scheduler_args; the named schedules have the
same floor through --lr_scheduler_min_lr_ratio.
"""

from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from library.optim.curves import Schedule, cosine_with_restarts


class FlooredCosineRestarts(LambdaLR):
    """Warm-up from 0, then `num_cycles` half cosine waves (SGDR, arXiv:1608.03983) between the full rate and floor * rate.

    total_steps, warmup_steps: scheduler steps, one per optimizer step and process. floor: 0..1, share of the full rate that
    is left at the end of each wave and from total_steps on. Raises ValueError for numbers out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup_steps: int = 0,
        num_cycles: int = 1,
        floor: float = 0.0,
        last_epoch: int = -1,
    ):
        check_floor(floor, "floor")
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(f"warmup_steps must be from 0 to below total_steps ({total_steps}), got {warmup_steps}")
        if num_cycles <= 0:
            raise ValueError(f"num_cycles must be above 0, got {num_cycles}")
        schedule = Schedule(total=total_steps, warmup=warmup_steps, num_cycles=num_cycles, floor=floor)
        super().__init__(optimizer, partial(cosine_with_restarts, schedule=schedule), last_epoch)


def check_floor(floor: float | None, option: str) -> None:
    """Raises ValueError unless `floor` is a share of the full rate, or None for none."""
    if floor is not None and not 0.0 <= floor <= 1.0:
        raise ValueError(f"{option} is a share of the full learning rate and must be from 0 to 1, got {floor}")
