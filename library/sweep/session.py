"""What is written down after each run of a sweep: its figures, and the table and page of all of them."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from library.sweep.logs import curves
from library.sweep.page import write_page
from library.sweep.runs import FAILED, FINISHED, Run, last_lines
from library.sweep.table import table, write_csv


def close(run: Run, exit_status: int) -> str:
    """Notes how a run ended, with the figures from its log; returns that in words."""
    record = run.record()
    record.exit_status = exit_status
    record.status = FAILED if exit_status else FINISHED
    record.samples_per_step = run.samples_per_step
    found = curves(run.folder / "logs")
    if found is not None:
        record.steps, record.seconds, record.last_loss = found.steps, found.seconds, found.last_loss
        record.loss, record.validation = found.loss, found.validation
    run.write(record)
    if exit_status:
        return f"failed with exit status {exit_status}; its last lines:\n{last_lines(run)}"
    if found is None:
        return "finished, but left no log of its losses"
    return f"finished: {found.steps} steps in {found.seconds:.0f} s, loss of the last tenth {found.last_loss:.4g}"


def report(folder: Path, runs: Sequence[Run], command: Sequence[str]) -> None:
    """Writes sweep.csv and sweep.html anew; a reader sees the old ones or the new ones."""
    rows = table(runs)
    write_csv(folder / "sweep.csv", rows)
    write_page(folder / "sweep.html", rows, subprocess.list2cmdline(command))
