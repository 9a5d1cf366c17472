"""Times this trainer beside a checkout of kohya's sd-scripts, on one command line of theirs.

python bench/side_by_side.py --reference FOLDER --reference-python PYTHON [--rounds 2] [--script train_network.py] -- COMMAND LINE

Each run is a process of its own, and the two take turns: A B B A. Both write TensorBoard records; losses and times are read from there.
A speed is printed only if the first 20 losses agree, for two trainers that compute different things cannot be compared. Ours therefore
runs with --strict_compat, which makes images and random numbers come in the reference's order. The command line needs --seed.
A step's time is that between two records. The first --warm_up steps are left out, and the last one, which ours records together with
the one before; a median bears the same at the ends of epochs, if these have more than a few steps.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
COMPARED_LOSSES = 20
LOSS = "loss/current"
TAIL = 3000  # characters of a failed run's output


@dataclass(frozen=True)
class Trainer:
    """name: in the table. options: what it gets besides the common command line."""

    name: str
    folder: Path
    python: str
    options: list[str]


@dataclass(frozen=True)
class Outcome:
    """losses and times: of each step, seconds since the epoch. start: seconds to the first record. memory: peak in MiB, 0 if unknown."""

    losses: list[float]
    times: list[float]
    start: float
    whole: float
    memory: float

    def step_seconds(self, warm_up: int) -> list[float]:
        return [after - before for before, after in pairwise(self.times[warm_up:-1])]


def run(trainer: Trainer, script: str, command: list[str], folder: Path) -> Outcome:
    """Trains once. Ends the program with the run's last words if it fails."""
    logs = folder / "logs"
    arguments = [*command, f"--output_dir={folder / 'out'}", f"--logging_dir={logs}", "--log_with=tensorboard", *trainer.options]
    output = folder / "output.txt"
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    folder.mkdir(parents=True)
    started = time.time()
    with output.open("w") as stream:
        process = subprocess.Popen(
            [trainer.python, str(trainer.folder / script), *arguments], env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
        status, memory = wait(process)
    whole = time.time() - started
    if status:
        sys.exit(f"{trainer.name} ended with exit status {status}:\n{output.read_text(errors='replace')[-TAIL:]}")
    losses, times = records(logs)
    return Outcome(losses, times, times[0] - started, whole, memory)


def wait(process: subprocess.Popen) -> tuple[int, float]:
    """The exit status, and the peak of memory in MiB where the system tells it of a single child."""
    if not hasattr(os, "wait4"):
        return process.wait(), 0.0
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def records(logs: Path) -> tuple[list[float], list[float]]:
    """Loss and time of each step, from the TensorBoard files below `logs`."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = []
    for file in logs.rglob("events.out.tfevents*"):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        if LOSS in events.Tags()["scalars"]:
            found += events.Scalars(LOSS)
    if not found:
        sys.exit(f"no {LOSS} in the TensorBoard files below {logs}")
    found.sort(key=lambda event: event.step)
    return [event.value for event in found], [event.wall_time for event in found]


def disagreement(ours: list[float], theirs: list[float]) -> float:
    """The largest relative distance among the losses compared; infinite if one has fewer steps."""
    if len(ours) != len(theirs):
        return float("inf")
    pairs = list(zip(ours, theirs, strict=True))[:COMPARED_LOSSES]
    return max(abs(a - b) / max(abs(b), 1e-12) for a, b in pairs)


def compare(outcomes: dict[str, list[Outcome]], names: tuple[str, str], warm_up: int) -> dict:
    """Times per step and ratios, theirs over ours, run by run in the order they were made."""
    result: dict = {"steps": len(outcomes[names[0]][0].losses)}
    for name in names:
        seconds = [second for outcome in outcomes[name] for second in outcome.step_seconds(warm_up)]
        result[name] = {
            "seconds_per_step": statistics.median(seconds),
            "start": statistics.median(outcome.start for outcome in outcomes[name]),
            "whole": statistics.median(outcome.whole for outcome in outcomes[name]),
            "memory_mib": statistics.median(outcome.memory for outcome in outcomes[name]),
        }
    pairs = list(zip(*(outcomes[name] for name in names), strict=True))
    kinds = {
        "step": lambda outcome: statistics.median(outcome.step_seconds(warm_up)),
        "start": lambda outcome: outcome.start,
        "whole": lambda outcome: outcome.whole,
    }
    for kind, value in kinds.items():
        ratios = [value(theirs) / value(ours) for ours, theirs in pairs]
        result[f"{kind}_ratio"] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return result


def shown(result: dict, names: tuple[str, str], apart: float) -> str:
    """The table."""
    rows = {"median s per step": "seconds_per_step", "start to first record, s": "start",
            "whole run, s": "whole", "peak memory, MiB": "memory_mib"}  # fmt: skip
    lines = [f"losses of the first {min(COMPARED_LOSSES, result['steps'])} steps agree to {apart:.1e}; {result['steps']} steps a run"]
    lines.append(f"{'':26}{names[0]:>12}{names[1]:>12}")
    lines += [f"{label:26}{result[names[0]][key]:12.3f}{result[names[1]][key]:12.3f}" for label, key in rows.items()]
    for kind in ("step", "start", "whole"):
        ratio = result[f"{kind}_ratio"]
        lines.append(f"{kind + ', times faster':26}{ratio['median']:12.2f}    from {ratio['min']:.2f} to {ratio['max']:.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, metavar="FOLDER", help="a checkout of sd-scripts")
    parser.add_argument("--reference-python", default=sys.executable, metavar="PYTHON", help="the interpreter with its packages")
    parser.add_argument("--reference-options", default="", metavar="TEXT", help="what only the reference gets, as one text")
    parser.add_argument("--our-options", default="--strict_compat", metavar="TEXT", help="what only ours gets (default: --strict_compat)")
    parser.add_argument("--script", default="train_network.py", help="train_network.py or sdxl_train_network.py")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each trainer (default: 2)")
    parser.add_argument("--warm_up", type=int, default=3, help="steps at the start of a run that are not timed (default: 3)")
    parser.add_argument("--tolerance", type=float, default=0.01, help="relative distance of losses that still agree (default: 0.01)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("command", nargs="+", help="kohya's options, after --")
    options = parser.parse_args()
    if not any(word.startswith("--seed") for word in options.command):
        parser.error("the command line needs --seed: without it the losses of two runs cannot agree")
    ours = Trainer("ours", HERE, sys.executable, options.our_options.split())
    reference = Trainer("reference", options.reference.resolve(), options.reference_python, options.reference_options.split())
    outcomes: dict[str, list[Outcome]] = {ours.name: [], reference.name: []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for trainer in (ours, reference) if number % 2 == 0 else (reference, ours):
                place = Path(folder) / f"{number}_{trainer.name}"
                outcomes[trainer.name].append(run(trainer, options.script, options.command, place))
    apart = max(disagreement(a.losses, b.losses) for a, b in zip(*outcomes.values(), strict=True))
    if apart > options.tolerance:
        a, b = (outcome[0].losses[:COMPARED_LOSSES] for outcome in outcomes.values())
        sys.exit(f"the losses differ by up to {apart:.1e}, so there is no speed to compare\n  ours      {a}\n  reference {b}")
    names = (ours.name, reference.name)
    result = compare(outcomes, names, options.warm_up)
    runs = {name: [asdict(outcome) for outcome in made] for name, made in outcomes.items()}
    print(json.dumps(result | {"losses_apart": apart, "runs": runs}) if options.json else shown(result, names, apart))


if __name__ == "__main__":
    main()
