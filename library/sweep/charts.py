"""Line charts as SVG, which an HTML page holds by itself. Pure text: no files, no packages."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 880, 360, 64, 30, 40, 12
CUT = 4.0
"""Values above this many medians do not stretch the axis: one run that diverged would flatten all others."""


@dataclass(frozen=True)
class Line:
    """points: (x, y), y None where there is no value."""

    name: str
    colour: str
    points: Sequence[tuple[float, float | None]]


def colour(number: int) -> str:
    """The colour of line `number`: neighbours differ by the golden angle, so any count of lines is told apart as well as can be."""
    return f"hsl({number * 137.508 % 360:.0f} 70% {(42, 55, 32)[number % 3]}%)"


def line_chart(lines: Sequence[Line], x_label: str, y_label: str) -> str:
    """An <svg> element; a pointer on a line shows its name. Empty text if there is nothing to draw."""
    points = [(x, y) for line in lines for x, y in line.points if y is not None and math.isfinite(y)]
    if not points:
        return ""
    x_high = max(x for x, _ in points)
    y_low, y_high = _range([y for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / x_high, TOP + (HEIGHT - TOP - BOTTOM) * (y_high - y) / (y_high - y_low)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for y in ticks(y_low, y_high):
        height = place(0, y)[1]
        parts.append(f'<path class="grid" d="M{LEFT} {height:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in ticks(0, x_high):
        parts.append(f'<text x="{place(x, y_low)[0]:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x:,g}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text x="14" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 14 {HEIGHT / 2})">{escape(y_label)}</text>')
    parts += [_drawn(line, place, y_high) for line in lines]
    return "\n".join([*parts, "</svg>"])


def _drawn(line: Line, place, y_high: float) -> str:
    """What lies above the axis is drawn on its upper edge."""
    finite = [(x, y) for x, y in line.points if y is not None and math.isfinite(y)]
    placed = [place(x, min(y, y_high)) for x, y in finite]
    title = f"<title>{escape(line.name)}</title>"
    if len(placed) == 1:
        return f'<circle cx="{placed[0][0]:.1f}" cy="{placed[0][1]:.1f}" r="4" fill="{line.colour}">{title}</circle>'
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    return f'<polyline points="{corners}" stroke="{line.colour}">{title}</polyline>' if placed else ""


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The lowest value and the highest that is drawn, with a little room."""
    low, high = min(values), max(values)
    if low >= 0:
        high = min(high, CUT * statistics.median(values)) or 1.0
    room = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
    return low - room, high + room


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers from low to high: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step)
    return [round(number * step, 12) for number in range(first, math.floor(high / step) + 1)]
