"""The table of a sweep: one row for each run, as CSV."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from library.files import written_whole
from library.sweep.runs import FINISHED, Record, Run

FIGURES = ("status", "steps", "samples", "seconds", "last_loss", "best_validation", "best_validation_step", "last_validation", "megabytes")
WAITING = "waiting"


@dataclass(frozen=True)
class Row:
    """A run, its record if it was started, and what the table says of it: one value for each of FIGURES, None where unknown."""

    run: Run
    record: Record | None
    figures: tuple[object, ...]

    @property
    def finished(self) -> bool:
        return self.record is not None and self.record.status == FINISHED


def table(runs: Sequence[Run]) -> list[Row]:
    """A row for each run, as the files on disk tell."""
    rows = []
    for run in runs:
        record = None if run.was_another() else run.record()
        rows.append(Row(run, record, _figures(run, record)))
    return rows


def _figures(run: Run, record: Record | None) -> tuple[object, ...]:
    if record is None or record.status != FINISHED:
        return (WAITING if record is None else record.status, *[None] * (len(FIGURES) - 1))
    best = min(record.validation, key=lambda point: math.inf if point[1] is None else point[1], default=(None, None))
    last = record.validation[-1] if record.validation else (None, None)
    samples = record.steps * record.samples_per_step if record.steps and record.samples_per_step else None
    files = list(run.folder.glob(f"{run.name}.*"))
    size = round(max(file.stat().st_size for file in files) / 1e6, 3) if files else None
    return record.status, record.steps, samples, _rounded(record.seconds, 1), record.last_loss, best[1], best[0], last[1], size


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Numbers in full; an empty field is a figure that is not there. The mark in front lets spreadsheets read it as UTF-8."""
    with written_whole(path) as temporary, open(temporary, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", *rows[0].run.values, *FIGURES, "folder"])
        for row in rows:
            writer.writerow([row.run.name, *row.run.values.values(), *row.figures, row.run.folder])
