"""The shapes of learning-rate schedules: factors on each group's rate, as functions of the scheduler's step.

Pure arithmetic: no torch, no optimizer. Every curve takes (step, schedule) and returns a factor; steps count from 0 and
may go beyond the end. Cosine with restarts is SGDR (arXiv:1608.03983); inverse_sqrt is arXiv:2106.04560.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

DEFAULT_TIMESCALE = 10_000  # of inverse_sqrt, where there is no warm-up to take it from
RAMPS: dict[str, Callable[[float], float]] = {  # falling from 1 to 0 over progress 0..1; their mirror images rise
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "1-sqrt": lambda progress: 1.0 - math.sqrt(progress),
}


@dataclass(frozen=True)
class Schedule:
    """The numbers of a schedule, in scheduler steps.

    total, warmup, decay: steps. floor: lowest factor after the warm-up, 0..1 of the full rate; None is the curve's own.
    learning_rate: the full rate, for curves that end at a fixed rate. extra: further arguments of single curves.
    """

    total: int
    warmup: int = 0
    decay: int = 0
    num_cycles: float = 1
    power: float = 1.0
    timescale: float | None = None
    floor: float | None = None
    learning_rate: float = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def progress(self, step: int) -> float:
        """Share of the time after the warm-up that is over; beyond the end it is more than 1."""
        return (step - self.warmup) / max(1, self.total - self.warmup)

    def rise(self, step: int) -> float:
        """The factor during the warm-up, from 0 up to 1."""
        return step / max(1, self.warmup)

    def lift(self, factor: float) -> float:
        """The factor moved from 0..1 into floor..1."""
        floor = self.floor or 0.0
        return floor + (1.0 - floor) * factor


Curve = Callable[[int, Schedule], float]


def constant(step: int, schedule: Schedule) -> float:
    return 1.0


def constant_with_warmup(step: int, schedule: Schedule) -> float:
    return schedule.rise(step) if step < schedule.warmup else 1.0


def linear(step: int, schedule: Schedule) -> float:
    if step < schedule.warmup:
        return schedule.rise(step)
    return schedule.lift(max(0.0, (schedule.total - step) / max(1, schedule.total - schedule.warmup)))


def cosine(step: int, schedule: Schedule) -> float:
    """Half a wave by default; extra `num_cycles` (in waves) changes that."""
    if step < schedule.warmup:
        return schedule.rise(step)
    waves = schedule.extra.get("num_cycles", 0.5)
    return schedule.lift(max(0.0, 0.5 * (1.0 + math.cos(math.pi * waves * 2.0 * schedule.progress(step)))))


def cosine_with_restarts(step: int, schedule: Schedule) -> float:
    """`num_cycles` half waves, each from the top; at the end and beyond it the factor is the floor."""
    if step < schedule.warmup:
        return schedule.rise(step)
    progress = schedule.progress(step)
    if progress >= 1.0:
        return schedule.lift(0.0)
    return schedule.lift(0.5 * (1.0 + math.cos(math.pi * ((schedule.num_cycles * progress) % 1.0))))


def polynomial(step: int, schedule: Schedule) -> float:
    """Falls to the rate `lr_end` (extra, 1e-7 by default) along (1 - progress) ** power."""
    if step < schedule.warmup:
        return schedule.rise(step)
    lr_end, peak = schedule.extra.get("lr_end", 1e-7), schedule.learning_rate
    left = max(0.0, 1.0 - schedule.progress(step))
    return schedule.lift(((peak - lr_end) * left**schedule.power + lr_end) / peak)


def inverse_sqrt(step: int, schedule: Schedule) -> float:
    if step < schedule.warmup:
        return schedule.rise(step)
    timescale = schedule.timescale or schedule.warmup or DEFAULT_TIMESCALE
    return 1.0 / math.sqrt((step + timescale - schedule.warmup) / timescale)


def cosine_with_min_lr(step: int, schedule: Schedule) -> float:
    """`num_cycles` half waves without a jump, between the full rate and the floor."""
    if step < schedule.warmup:
        return schedule.rise(step)
    return max(0.0, schedule.lift(0.5 * (1.0 + math.cos(math.pi * schedule.num_cycles * schedule.progress(step)))))


def warmup_stable_decay(step: int, schedule: Schedule) -> float:
    """Full rate until the last `decay` steps, then down to the floor; the warm-up too begins at the floor.

    extra: `warmup_type` (linear by default) and `decay_type` (cosine by default), names in RAMPS.
    """
    decay_start = schedule.total - schedule.decay
    if step < schedule.warmup:
        fallen = RAMPS[schedule.extra.get("warmup_type", "linear")]
        remaining = 1.0 - schedule.rise(step)
        rising = 1.0 - math.sqrt(remaining) if fallen is RAMPS["1-sqrt"] else 1.0 - fallen(schedule.rise(step))
        return max(0.0, schedule.lift(rising))
    if step < decay_start:
        return 1.0
    if step >= schedule.total:
        return schedule.floor or 0.0
    progress = (step - decay_start) / max(1, schedule.decay)
    decay_type = schedule.extra.get("decay_type", "cosine")
    waves = schedule.num_cycles if decay_type == "cosine" else 1
    return max(0.0, schedule.lift(RAMPS[decay_type](progress * waves)))


def piecewise_constant(step: int, schedule: Schedule) -> float:
    """Extra `step_rules`: "1:10,0.1:20,0.01" is factor 1 before step 10, 0.1 before step 20, then 0.01."""
    pieces, last = parse_step_rules(str(schedule.extra["step_rules"]))
    return next((factor for end, factor in pieces if step < end), last)


def parse_step_rules(rules: str) -> tuple[list[tuple[int, float]], float]:
    """The (end step, factor) pairs in ascending order and the last factor. Raises ValueError for anything else."""
    *pairs, last = rules.split(",")
    pieces = [pair.split(":") for pair in pairs]
    return sorted((int(end), float(factor)) for factor, end in pieces), float(last)


CURVES: dict[str, Curve] = {
    "constant": constant,
    "constant_with_warmup": constant_with_warmup,
    "linear": linear,
    "cosine": cosine,
    "cosine_with_restarts": cosine_with_restarts,
    "polynomial": polynomial,
    "inverse_sqrt": inverse_sqrt,
    "cosine_with_min_lr": cosine_with_min_lr,
    "warmup_stable_decay": warmup_stable_decay,
    "piecewise_constant": piecewise_constant,
}
