"""Markdown tables of bench/learning.py: mean and spread over seeds in each cell."""

import itertools
import statistics
from collections.abc import Callable
from typing import Any

from bench.learning_cells import ONE_SEED, TABLES, Cell

Result = dict[str, Any]
HEADS = ("concept, best", "samples to it", "concept, end", "base, end", "class, end", "seconds", "runs")
GROWN = 1.01


def markdown(name: str, result: Callable[[Cell, int], Result | None], seeds: int) -> str:
    """The table. Losses are changes against the untrained model in percent: below 0 is learned, above 0 is forgotten."""
    heads, cells = TABLES[name]
    with_d = name == "schedules"
    lines = [f"\n### {name}\n", "| " + " | ".join([*heads, *HEADS, *(["d, end", "d grew until"] if with_d else [])]) + " |"]
    lines.append("|---" * lines[-1].count(" | ") + "|---|")
    for cell in cells:
        found = [one for seed in range(1, 2 if name in ONE_SEED else seeds + 1) if (one := result(cell, seed))]
        values = [*figures(found), *(d_figures(found) if with_d else [])] if found else ["not run"]
        lines.append("| " + " | ".join([*cell.labels, *values]) + " |")
    return "\n".join(lines)


def figures(found: list[Result]) -> list[str]:
    curves = [one["curve"] for one in found]
    best = [min(curve, key=lambda point: point[1]) for curve in curves]
    columns = [
        _spread([change(curve, point, 1) for curve, point in zip(curves, best, strict=True)], 1),
        _spread([point[0] for point in best], 0),
        *(_spread([change(curve, curve[-1], column) for curve in curves], 1) for column in (1, 2, 3)),
        _spread([one["seconds"] for one in found], 1),
    ]
    return [*columns, str(len(found))]


def change(curve: list, point: list, column: int) -> float:
    """In percent of what it was before training."""
    return 100 * (point[column] / curve[0][column] - 1)


def d_figures(found: list[Result]) -> list[str]:
    """The estimate of rate-finding optimizers at the end, and the samples after which it grew by a hundredth for the last time."""
    if found[0]["curve"][0][4] is None:
        return ["", ""]
    ends, last = [], []
    for one in found:
        estimates = [(point[0], point[4]) for point in one["curve"]]
        grown = [after[0] for before, after in itertools.pairwise(estimates) if after[1] > GROWN * before[1]]
        ends.append(estimates[-1][1])
        last.append(grown[-1] if grown else 0)
    return [f"{statistics.mean(ends):.2g} ± {_deviation(ends):.1g}", _spread(last, 0)]


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.mean(values):.{digits}f} ± {_deviation(values):.{digits}f}"


def _deviation(values: list[float]) -> float:
    """Standard deviation of the sample; 0 for one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0
