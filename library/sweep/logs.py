"""Losses and learning rates of a run, from its TensorBoard logs."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

LOSS, LOSS_AVERAGE = "loss/current", "loss/average"
VALIDATION = ("loss/validation/step_average", "loss/validation/epoch_average")
MOST_POINTS = 50
Point = tuple[int, float]
"""A step, counted from 1, and a value."""


@dataclass
class Series:
    """What one tag recorded, in order. times: seconds since 1970."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


def log_folders(folder: Path) -> list[Path]:
    """The folders below `folder` that hold a log with values, the newest last."""
    files = sorted(folder.rglob("events.out.tfevents.*"), key=lambda file: (file.stat().st_mtime, file.name))
    return [file.parent for file in files if read_log(file.parent)]


def newest_log(folder: Path) -> Path:
    """The folder of the run logged last below `folder`. Raises FileNotFoundError if there is no log."""
    folders = log_folders(folder)
    if not folders:
        raise FileNotFoundError(f"there is no TensorBoard log with values below {folder}")
    return folders[-1]


def read_log(folder: Path) -> dict[str, Series]:
    """Every scalar tag of the log in `folder`."""
    log = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    log.Reload()
    found = {}
    for tag in log.Tags()["scalars"]:
        events = log.Scalars(tag)
        found[tag] = Series([e.step for e in events], [e.value for e in events], [e.wall_time for e in events])
    return found


@dataclass(frozen=True)
class Curves:
    """A run in figures. loss: each point the mean of a stretch of steps, at its end. seconds: from first to last step, breaks left out."""

    steps: int
    seconds: float
    loss: list[Point]
    last_loss: float
    validation: list[Point]


def curves(folder: Path) -> Curves | None:
    """The run whose logs lie below `folder`; of one that was resumed, what the later log says holds. None if nothing is logged."""
    logs = [log for log in map(read_log, log_folders(folder)) if LOSS in log]
    if not logs:
        return None
    joined = {tag: Series() for tag in (LOSS, *VALIDATION)}
    for log in logs:
        dropped_from = _time_of(joined[LOSS], log[LOSS].steps[0])
        for tag, series in joined.items():
            _append(series, log.get(tag, Series()), dropped_from)
    loss = joined[LOSS]
    seconds = sum(log[LOSS].times[-1] - log[LOSS].times[0] for log in logs)
    validation = {point for tag in VALIDATION for point in _by_step(joined[tag], loss)}
    return Curves(loss.steps[-1], seconds, thinned(loss.steps, loss.values), last_tenth(loss.values), sorted(validation))


def _time_of(series: Series, step: int) -> float:
    """When `step` was recorded, infinity if it was not."""
    return next((time for one, time in zip(series.steps, series.times, strict=True) if one >= step), math.inf)


def _append(series: Series, more: Series, dropped_from: float) -> None:
    """Puts `more` behind what `series` recorded before the time dropped_from."""
    kept = bisect_left(series.times, dropped_from)
    for own, other in ((series.steps, more.steps), (series.values, more.values), (series.times, more.times)):
        own[kept:] = other


def _by_step(series: Series, loss: Series) -> list[Point]:
    """The values by the optimizer step that was done when they were recorded, for tags that count epochs."""
    places = [max(bisect_right(loss.times, time), 1) - 1 for time in series.times]
    return [(loss.steps[place], value) for place, value in zip(places, series.values, strict=True)]


def thinned(steps: Sequence[int], values: Sequence[float], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` points; each is the mean of the finite values of a stretch, at its last step."""
    size = math.ceil(len(steps) / most)
    points = []
    for begin in range(0, len(steps), size):
        finite = [value for value in values[begin : begin + size] if math.isfinite(value)]
        if finite:
            points.append((steps[min(begin + size, len(steps)) - 1], sum(finite) / len(finite)))
    return points


def last_tenth(values: Sequence[float]) -> float:
    """The mean of the last tenth, at least one value; NaN if one of them is."""
    last = values[-math.ceil(len(values) / 10) :]
    return sum(last) / len(last)
