"""A long run on a tiny model: does memory grow, do steps get slower?

python bench/soak.py [--steps 2000] [--epochs 8] [--workers 2] [--only steps|epochs]

Two runs, one after the other, in processes of their own. `steps`: many short steps in one process with previews, saves, states (the last
two kept) and validation on the way. `epochs`: as many passes over the images with loader workers, whose memory counts too. Memory is the
resident set; its slope is that of a straight line through all steps after the first fifth, in MiB per 1000 steps. Drift compares the median
processor time of the steps in the last quarter with those of the second quarter; steps at which something is saved, drawn or measured are
left out.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.pop(0)  # this folder, whose kernels.py would pass for the package of that name
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

FEW_BLOCKS = f"block_dims={','.join('2' if block in (4, 12, 20) else '0' for block in range(25))}"
PLAIN = f"--network_train_unet_only --cache_latents --save_state --network_args {FEW_BLOCKS} --validation_split 0.2".split()
WARM_UP = 0.2  # of the steps


def slope(values: list[float]) -> float:
    """Of the straight line through equally spaced values, per value, by least squares."""
    middle = (len(values) - 1) / 2
    mean = statistics.fmean(values)
    spread = sum((place - middle) ** 2 for place in range(len(values)))
    return sum((place - middle) * (value - mean) for place, value in enumerate(values)) / spread


def trained(kind: str, steps: int, workers: int, folder: Path) -> dict[str, list[float]]:
    """The run itself: MiB of the process and its workers, and seconds of processor time, for each update."""
    import psutil
    import torch

    from library.training import network_recipe
    from tests.golden_workshop import Workshop
    from tests.tiny_runs import picture_folder, small_run

    torch.set_num_threads(1)
    (folder / "prompts.txt").write_text("a thing --w 64 --h 64 --s 2\n", encoding="utf-8")
    interval = max(10, steps // 20)
    often = ["--save_every_n_steps", "--sample_every_n_steps", "--validate_every_n_steps"]
    options = [*PLAIN, *(word for name in often for word in (name, str(interval))), "--save_last_n_steps", str(interval)]
    options += ["--sample_prompts", str(folder / "prompts.txt"), "--logging_dir", str(folder / "logs")]
    length = ["--max_train_steps", str(steps)] if kind == "steps" else ["--max_train_epochs", str(steps)]
    data = picture_folder(folder / "data", 10 if kind == "steps" else 40, repeats=1)
    model = Workshop(folder, Path("tests/golden")).model("sd1")
    run = small_run(model, data, folder / "out", *options, *length, "--max_data_loader_n_workers", str(workers))
    me, memory, times, since = psutil.Process(), [], [], [time.process_time()]

    def note(update) -> None:
        now = time.process_time()
        busy = (update.global_step - 1) % interval == 0
        times.append(0.0 if busy else now - since[0])
        since[0] = now
        memory.append((me.memory_info().rss + sum(child.memory_info().rss for child in me.children())) / 2**20)

    run.update_watchers.append(note)
    network_recipe.train(run)
    return {"memory": memory, "times": times}


def figures(measured: dict[str, list[float]]) -> dict[str, float]:
    """What the table shows."""
    memory, times = measured["memory"], measured["times"]
    first, quarter = int(len(memory) * WARM_UP), len(times) // 4
    early, late = ([one for one in part if one] for part in (times[quarter : 2 * quarter], times[-quarter:]))
    return {
        "steps": len(memory),
        "start": memory[first],
        "end": memory[-1],
        "slope": 1000 * slope(memory[first:]),
        "milliseconds": 1e3 * statistics.median(early),
        "drift": statistics.median(late) / statistics.median(early) - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=("steps", "epochs"))
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, number, workers = options.child
        with tempfile.TemporaryDirectory() as folder:
            measured = trained(kind, int(number), int(workers), Path(folder))
        print(json.dumps(figures(measured)), file=sys.__stdout__)
        return
    print("| run | steps | MiB after warm-up | at the end | slope, MiB per 1000 steps | ms per step | drift |")
    print("|---|---|---|---|---|---|---|")
    runs = {"steps": (options.steps, 0), "epochs": (options.epochs, options.workers)}
    for kind, (number, workers) in runs.items():
        if options.only in (None, kind):
            command = [sys.executable, __file__, "--child", kind, str(number), str(workers)]
            done = subprocess.run(command, cwd=Path(__file__).resolve().parents[1], stdout=subprocess.PIPE, text=True, check=True)
            one = json.loads(done.stdout.splitlines()[-1])
            name = "one process" if kind == "steps" else f"{number} epochs, {workers} workers"
            print(
                f"| {name} | {one['steps']} | {one['start']:.0f} | {one['end']:.0f} | {one['slope']:+.1f} | {one['milliseconds']:.0f} | "
                f"{one['drift']:+.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
