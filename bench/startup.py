"""Time from the start of `train_network.py` to its first step, part by part; beside another checkout if one is given.

python bench/startup.py [--model FILE [--cold]] [--against FOLDER] [--runs 3]

The model is the tiny one of the demo, or any other of SD1's kind: 6 pictures of 256 px are cached then, and a LoRA of rank 16 is trained.

Each run is a process of its own. The two checkouts take turns (A B B A ...), so that a busy machine slows both. Processor time depends
less on the neighbours than the clock.
"""

import argparse
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
MODEL = HERE / "examples" / "tiny_sd" / "model"
PARTS = ("options read", "packages imported", "everything prepared", "first step")


def write_task(folder: Path, model: Path | None) -> list[str]:
    """Pictures in `folder`, and the command line that trains on them."""
    from PIL import Image

    side, count, rank = (128, 4, 4) if model is None else (256, 6, 16)
    pictures = folder / "images" / "1_picture"
    pictures.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (side, side), (40 * number, 90, 120)).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text("a picture")
    return [
        f"--pretrained_model_name_or_path={model or MODEL}", f"--train_data_dir={folder / 'images'}", f"--output_dir={folder / 'out'}",
        f"--resolution={side}", "--network_module=networks.lora", f"--network_dim={rank}", "--max_train_steps=4", "--learning_rate=1e-4",
        "--seed=1", "--max_data_loader_n_workers=0", "--caption_extension=.txt", *([] if model is None else ["--cache_latents", "--sdpa"]),
    ]  # fmt: skip


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function with one module when that has been imported."""

    def __init__(self, name: str, function: Callable):
        self.name, self.function = name, function

    def find_spec(self, name, path, target=None):
        if name != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def execute_and_call(module) -> None:
            execute(module)
            self.function(module)

        spec.loader.exec_module = execute_and_call
        return spec


def child(checkout: Path, arguments: list[str], started: float) -> None:
    """Starts training as the script does, notes the time after each part, and leaves at the first step. Prints a JSON object."""
    marks: dict[str, tuple[float, float]] = {}

    def mark(part: str) -> None:
        marks[part] = (time.time() - started, time.process_time())

    sys.path.insert(0, str(checkout))
    sys.argv = ["train_network.py", *arguments]
    script = importlib.import_module("train_network")
    read_args = script.read_args

    def read_and_mark(*given):
        args = read_args(*given)
        mark(PARTS[0])
        return args

    def imported(recipe) -> None:
        mark(PARTS[1])
        prepare = recipe.prepare

        def prepare_and_mark(*settings):
            run = prepare(*settings)
            mark(PARTS[2])
            run.watchers.append(stop)
            return run

        recipe.prepare = prepare_and_mark

    def stop(step) -> None:
        mark(PARTS[3])
        print(json.dumps(marks), flush=True)
        os._exit(0)

    script.read_args = read_and_mark
    sys.meta_path.insert(0, AfterImport("library.training.network_recipe", imported))
    script.main()


def forget(path: Path) -> None:
    """Has the system drop what it holds of the file in memory, as after the machine's start. Linux only."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def one_run(checkout: Path, arguments: list[str]) -> dict[str, tuple[float, float]]:
    command = [sys.executable, __file__, "--child", str(checkout), str(time.time()), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    if done.returncode:
        sys.exit(f"the run in {checkout} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), sys.argv[4:], float(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="FILE", help="an SD1 model, a file or a folder (default: the demo's)")
    parser.add_argument("--cold", action="store_true", help="with --model FILE: the file is read from the disk in each run")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout to compare with")
    parser.add_argument("--runs", type=int, default=3, help="runs of each checkout (default: 3)")
    options = parser.parse_args()
    checkouts = [HERE] + ([options.against.resolve()] if options.against else [])
    results: dict[Path, list[dict]] = {checkout: [] for checkout in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        arguments = write_task(Path(folder), options.model and options.model.resolve())
        for number in range(options.runs):
            for checkout in checkouts if number % 2 == 0 else checkouts[::-1]:
                if options.cold:
                    forget(options.model)
                results[checkout].append(one_run(checkout, arguments))
    print(f"seconds from the start of the process, median of {options.runs}: clock, processor")
    for part in PARTS:
        medians = [[statistics.median(run[part][kind] for run in runs) for kind in (0, 1)] for runs in results.values()]
        shown = "   ".join(f"{clock:7.2f} {processor:7.2f}" for clock, processor in medians)
        ratio = f"   ratio {medians[0][0] / medians[1][0]:.2f} {medians[0][1] / medians[1][1]:.2f}" if len(medians) > 1 else ""
        print(f"  {part:22}{shown}{ratio}")


if __name__ == "__main__":
    main()
