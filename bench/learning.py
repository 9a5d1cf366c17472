"""How well LoRAs learn: optimizers, schedules, dropouts, adapters compared by losses on unseen pictures, with means and spreads.

    python bench/learning.py [--tables optimizers,schedules] [--seeds 3] [--samples 480] [--results learning.jsonl]

Every run trains on the same number of pictures, by the suite's recipe. Finished runs are kept in the results file as JSON lines, so the
same command goes on where it stopped; tables are printed from it at the end. Cells that tables share are run once.
"""

import argparse
import contextlib
import hashlib
import io
import json
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder, whose kernels.py would pass for the package of that name
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from bench.learning_cells import COMMON, ONE_SEED, TABLES, Cell
from bench.learning_run import PICTURES, Task, train_one, write_data
from bench.learning_tables import markdown

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "tiny_sd"


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """Key of a run -> what was measured. A last line that was cut off by a kill does not count."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            result = json.loads(line)
        except ValueError:
            continue
        found[result["key"]] = result
    return found


def append(path: Path, result: dict[str, Any]) -> None:
    """Adds a line, on disk when this returns; behind a line that was cut off it begins a new one."""
    with open(path, "ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(result).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def fingerprint(folder: Path, *endings: str) -> str:
    """A short name for a file, or for all files below a folder that have one of these endings, by what is in them."""
    digest = hashlib.sha256()
    for path in [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.suffix in endings):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def key_of(task: dict[str, Any], cell: Cell, seed: int) -> str:
    """The same for runs that are the same, whichever table they stand in."""
    return json.dumps({"task": task, "options": COMMON | cell.options, "reg": cell.with_reg, "seed": seed}, sort_keys=True)


def runs_of(tables: Sequence[str], cells: str, seeds: int) -> Iterator[tuple[str, Cell, int]]:
    """All cells of a table with the first seed, then with the next: a table that is cut off has gaps in its spreads, not in its rows.

    cells: a pattern for their labels, joined by commas.
    """
    for name in tables:
        for seed in range(1, 2 if name in ONE_SEED else seeds + 1):
            yield from ((name, cell, seed) for cell in TABLES[name][1] if re.search(cells, ", ".join(cell.labels)))


def quietly(function: Callable[..., Any], *values: Any, **named: Any) -> Any:
    """Calls it without progress bars and log lines; they are shown if it ends the program."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        try:
            return function(*values, **named)
        except SystemExit as end:
            raise RuntimeError(told.getvalue()) from end


def run_all(options: argparse.Namespace, shared: dict[str, Any], results: dict[str, dict[str, Any]]) -> None:
    """Makes what is not in `results` yet and writes each run down when it is finished."""
    ends = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    wanted = {key_of(shared, cell, seed): (name, cell, seed) for name, cell, seed in runs_of(options.tables, options.cells, options.seeds)}
    missing = {key: run for key, run in wanted.items() if key not in results}
    print(f"{len(wanted)} runs, {len(wanted) - len(missing)} of them done before", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_data(data, options.concept, options.base, options.size, options.batch)
        task = Task(options.model, data, options.samples, options.batch, options.size, options.measurements)
        for number, (key, (name, cell, seed)) in enumerate(missing.items(), start=1):
            if time.monotonic() > ends:
                print(f"{options.minutes} minutes are over: {len(missing) - number + 1} runs are missing", file=sys.stderr)
                return
            measured = quietly(train_one, task, COMMON | cell.options, seed, Path(folder) / "out", with_reg=cell.with_reg)
            results[key] = {"key": key, "made": time.strftime("%Y-%m-%d %H:%M"), **measured}
            append(options.results, results[key])
            print(f"[{number}/{len(missing)}] {name}: {', '.join(cell.labels)}, seed {seed}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=lambda text: text.split(","), default=list(TABLES), help=f"of {','.join(TABLES)} (default: all)")
    parser.add_argument("--cells", default="", metavar="PATTERN", help="only cells whose labels match, '16$' (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each cell (default: 3)")
    parser.add_argument("--samples", type=int, default=480, help="pictures each run trains on, repeats included (default: 480)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=64, help="pixels on a side (default: 64)")
    parser.add_argument("--measurements", type=int, default=6, help="how often a run is measured (default: 6)")
    parser.add_argument("--model", type=Path, default=EXAMPLE / "model")
    parser.add_argument("--concept", type=Path, default=EXAMPLE / "mascot" / "10_mikanbot robot", help="folder REPEATS_TRIGGER CLASS")
    parser.add_argument("--base", type=Path, default=EXAMPLE / "reg" / "1_robot", help="pictures of what the model knows")
    parser.add_argument("--results", type=Path, default=Path("learning.jsonl"), help="file of finished runs (default: learning.jsonl)")
    parser.add_argument("--minutes", type=float, default=None, help="start no further run after so long (default: no limit)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    unknown = [name for name in options.tables if name not in TABLES]
    if unknown:
        parser.error(f"--tables {','.join(unknown)}: choose from {', '.join(TABLES)}")
    torch.set_num_threads(options.threads)
    shared = {name: getattr(options, name) for name in ("samples", "batch", "size", "measurements")}
    shared |= {"model": fingerprint(options.model, ".safetensors", ".bin")}
    shared |= {name: fingerprint(getattr(options, name), *PICTURES, ".txt") for name in ("concept", "base")}
    results = read_results(options.results)
    run_all(options, shared, results)
    for name in options.tables:
        print(markdown(name, lambda cell, seed: results.get(key_of(shared, cell, seed)), options.seeds), flush=True)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main()
