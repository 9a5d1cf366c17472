"""The page of a sweep: table, curves and previews in one HTML file that needs no other."""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from library.files import written_whole
from library.sweep.charts import Line, colour, line_chart
from library.sweep.sheet import Preview, prompt_of, sheets, small_picture
from library.sweep.table import FIGURES, Row

STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1em 0 }
th, td { border: 1px solid #ccc; padding: .25em .6em; text-align: left; vertical-align: top }
thead th { background: #eee; cursor: pointer }
td.number { text-align: right; font-variant-numeric: tabular-nums }
tr.failed td { background: #fdd }
svg { max-width: 900px; width: 100%; font: 12px system-ui, sans-serif }
svg polyline { fill: none; stroke-width: 2; stroke-linejoin: round }
svg polyline:hover { stroke-width: 4 }
svg .grid { stroke: #ddd; fill: none }
.key { display: inline-block; width: 1em; height: 1em; margin-right: .4em; vertical-align: -.1em }
pre { white-space: pre-wrap; background: #f4f4f4; padding: .6em }
"""
SORT = """
document.querySelectorAll('#runs thead th').forEach((head, column) => head.onclick = () => {
  const body = document.querySelector('#runs tbody'), value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const down = head.dataset.down = head.dataset.down === '1' ? '' : '1';
  const number = text => text === '' ? Infinity : Number(text);
  [...body.rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)], order = isNaN(number(x)) || isNaN(number(y)) ? x.localeCompare(y) : number(x) - number(y);
    return down ? order : -order;
  }).forEach(row => body.append(row));
});
"""


def write_page(path: Path, rows: Sequence[Row], command: str) -> None:
    """command: how the sweep was started, for the reader."""
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Sweep</title>',
        f"<style>{STYLE}</style></head><body>",
        f"<h1>Sweep: {sum(row.finished for row in rows)} of {len(rows)} runs finished</h1>",
        f"<pre>{escape(command)}</pre>",
        run_table(rows, path.parent),
        curve_charts(rows),
        preview_sheets(rows, path.parent),
        f"<script>{SORT}</script></body></html>\n",
    ]
    with written_whole(path) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


def run_table(rows: Sequence[Row], folder: Path) -> str:
    """One row for each run, in the colour of its curves; a click on a head sorts by it."""
    heads = "".join(f"<th>{escape(name)}</th>" for name in ("run", *rows[0].run.values, *FIGURES))
    lines = [f'<table id="runs"><thead><tr>{heads}</tr></thead><tbody>']
    for number, row in enumerate(rows):
        link = f'<a href="{link_to(row.run.folder, folder)}">{escape(row.run.name)}</a>'
        cells = [f'<td><span class="key" style="background:{colour(number)}"></span>{link}</td>']
        cells += [_cell(value) for value in (*row.run.values.values(), *row.figures)]
        lines.append(f'<tr class="{row.figures[0]}">{"".join(cells)}</tr>')
    return "\n".join([*lines, "</tbody></table>"])


def _cell(value: object) -> str:
    """A number is shown with four digits and sorted by all of them."""
    if value is None:
        return '<td data-value=""></td>'
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return f'<td class="number" data-value="{value!r}">{shown}</td>'


def link_to(target: Path, folder: Path) -> str:
    """A link that still leads there when the sweep's folder is moved."""
    return escape(quote(os.path.relpath(target, folder).replace(os.sep, "/")))


def curve_charts(rows: Sequence[Row]) -> str:
    """Training loss and, where there is one, validation loss; by samples where their number is known, by steps otherwise."""
    by_samples = all(row.run.samples_per_step for row in rows)
    label = "samples" if by_samples else "optimizer steps"
    parts = []
    for title, kind in (("Training loss, each point the mean of a stretch of steps", "loss"), ("Validation loss", "validation")):
        lines = []
        for number, row in enumerate(rows):
            size = row.run.samples_per_step if by_samples else 1
            points = [(step * size, value) for step, value in getattr(row.record, kind, [])]
            lines.append(Line(row.run.name, colour(number), points))
        chart = line_chart(lines, label, "loss")
        parts += [f"<h2>{title}</h2>", chart] if chart else []
    return "\n".join(parts)


def preview_sheets(rows: Sequence[Row], folder: Path) -> str:
    """For each prompt and seed: runs from top to bottom, epochs or steps from left to right. A click opens the full picture."""
    parts = []
    for (index, seed), columns in sheets([row.run for row in rows]).items():
        first = next(iter(next(iter(columns.values())).values()))
        parts.append(f"<h2>Prompt {index}, {'any seed' if seed is None else f'seed {seed}'}: {escape(prompt_of(first.path))}</h2>")
        heads = "".join(f"<th>{next(iter(column.values())).when}</th>" for column in columns.values())
        parts.append(f"<table><thead><tr><th>run</th>{heads}</tr></thead><tbody>")
        for row in rows:
            cells = "".join(_picture(column.get(row.run.name), folder) for column in columns.values())
            parts.append(f"<tr><th>{escape(row.run.name)}</th>{cells}</tr>")
        parts.append("</tbody></table>")
    return "\n".join(parts)


def _picture(preview: Preview | None, folder: Path) -> str:
    if preview is None:
        return "<td></td>"
    return f'<td><a href="{link_to(preview.path, folder)}"><img src="{small_picture(preview.path)}" alt="{preview.when}"></a></td>'
