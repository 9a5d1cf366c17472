"""One run of bench/learning.py: a LoRA trained by the suite's own recipe, in this process, and measured while it learns.

Measured are losses on pictures that are never trained on, at fixed timesteps with fixed noise (library/training/validation.py):
    concept   unseen pictures of the concept with their captions
    base      pictures of what the model knew before, with their captions
    class     the same pictures with the class's word in front of the caption, and without the trigger
"""

import copy
import functools
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState, GradientState

from library.args.parser import setup_parser
from library.args.reading import read_args
from library.models.family import Models
from library.models.sd import SD
from library.training.network_recipe import Run, prepare, train
from library.training.step import MicroStep

SETS = ("concept", "base", "class")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
HELD_OUT_EVERY = 4
MEASURED_AT_ONCE = 32


@functools.cache
def _models(family: SD, path: str, options: tuple[tuple[str, Any], ...]) -> Models:
    return SD.load(family, path, **dict(options))


class LoadedOnce(SD):
    """Stable Diffusion whose models are read from disk once in this process."""

    def load(self, path: str, **options: Any) -> Models:
        return copy.deepcopy(_models(self, path, tuple(options.items())))


@functools.cache
def family() -> LoadedOnce:
    """One object for all runs, as it holds the tokenizer."""
    return LoadedOnce()


@dataclass(frozen=True)
class Task:
    """What all runs of a bench share. samples: pictures trained on, repeats included. data: a folder made by `write_data`."""

    model: Path
    data: Path
    samples: int
    batch: int
    size: int
    measurements: int

    @property
    def steps(self) -> int:
        return self.samples // self.batch


def write_data(folder: Path, concept: Path, base: Path, size: int, batch: int) -> None:
    """Copies the pictures into folders: every fourth of the concept is held out, every second of the base is for regularisation.

    concept: a folder named as kohya's are, `10_mikanbot robot`: repeats, trigger, class. Raises ValueError for another name.
    """
    words = concept.name.partition("_")[2].split()
    if len(words) < 2:
        raise ValueError(f"--concept {concept}: the folder's name must be REPEATS_TRIGGER CLASS, such as '10_mikanbot robot'")
    class_word = " ".join(words[1:])
    for number, picture in enumerate(pictures(concept), start=1):
        copy_picture(picture, folder / ("train" if number % HELD_OUT_EVERY else "concept"))
    for number, picture in enumerate(pictures(base)):
        if number % 2:
            copy_picture(picture, folder / "reg")
        else:
            copy_picture(picture, folder / "base")
            copy_picture(picture, folder / "class", before=f"{class_word}, ")
    buckets = f"enable_bucket = true\nmin_bucket_reso = {size}\nmax_bucket_reso = {size}"
    for name, with_reg in (("plain.toml", False), ("reg.toml", True)):
        parts = [
            f'[general]\nresolution = {size}\n{buckets}\ncaption_extension = ".txt"\n[[datasets]]\nbatch_size = {batch}',
            subset(folder / "train", f"num_repeats = {batch}"),  # whole batches, however many pictures there are
            subset(folder / "reg", f"num_repeats = {batch}\nis_reg = true") if with_reg else "",
            f"[[datasets]]\nbatch_size = {MEASURED_AT_ONCE}",
            *(subset(folder / one, "validation_split = 1.0") for one in SETS),
        ]
        (folder / name).write_text("\n".join(parts), encoding="utf-8")


def subset(folder: Path, keys: str) -> str:
    return f"[[datasets.subsets]]\nimage_dir = '{folder}'\n{keys}"


def pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, by name. Raises ValueError if there are too few to hold some out."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES) if folder.is_dir() else []
    if len(found) < HELD_OUT_EVERY:
        raise ValueError(f"{folder} holds {len(found)} pictures, at least {HELD_OUT_EVERY} are needed")
    return found


def copy_picture(picture: Path, folder: Path, before: str = "") -> None:
    """With its caption, `before` in front of it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(picture, folder / picture.name)
    caption = picture.with_suffix(".txt").read_text(encoding="utf-8")
    (folder / picture.with_suffix(".txt").name).write_text(before + caption, encoding="utf-8")


@dataclass
class Watch:
    """Measures a run every `every` updates, and takes its time without the measuring.

    curve: samples, then the loss of each of SETS, then the optimizer's estimate d (None if it has none). seconds: processor time.
    """

    run: Run
    every: int
    batch: int
    curve: list[tuple] = field(default_factory=list)
    seconds: float = 0.0
    _since: float = 0.0

    def before_update(self, step: MicroStep) -> None:
        """After the step's backward pass; the weights are still those of the update before."""
        if step.global_step % self.every == 0:
            self.measure(step.global_step)

    def begin(self) -> None:
        self._since = time.process_time()

    def measure(self, updates: int) -> None:
        self.seconds += time.process_time() - self._since
        losses: dict[str, list[float]] = {name: [] for name in SETS}
        for (_, key), loss in self.run.validation.image_losses().items():
            losses[Path(key).parent.name].append(loss)
        d = self.run.optimization.built.optimizer.param_groups[0].get("d")
        means = [sum(found) / len(found) for found in losses.values()]
        self.curve.append((updates * self.batch, *means, None if d is None else float(d)))
        self.begin()


def train_one(task: Task, options: Mapping[str, Any], seed: int, out: Path, *, with_reg: bool) -> dict[str, Any]:
    """Trains with these options; {"curve": ..., "seconds": ..., "parameters": ...}, see Watch."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    args = read_args(setup_parser("train_network"), "train_network", command_line(task, options, seed, out, with_reg=with_reg))
    run = prepare(args, family())
    watch = Watch(run, max(1, task.steps // task.measurements), task.batch)
    run.watchers.append(watch.before_update)
    watch.begin()
    train(run)
    watch.measure(task.steps)
    shutil.rmtree(out)
    trained = sum(parameter.numel() for parameter in run.network.parameters() if parameter.requires_grad)
    return {"curve": watch.curve, "seconds": watch.seconds, "parameters": trained}


def command_line(task: Task, options: Mapping[str, Any], seed: int, out: Path, *, with_reg: bool) -> list[str]:
    """What a user would type for this run."""
    whole = {
        "pretrained_model_name_or_path": task.model,
        "dataset_config": task.data / ("reg.toml" if with_reg else "plain.toml"),
        "output_dir": out,
        "max_train_steps": task.steps,
        "validate_every_n_epochs": task.steps + 1,  # the bench measures by itself
        "seed": seed,
        "validation_seed": 1,  # the same noise is measured with in all runs
        "console_log_level": "ERROR",
        **options,
    }
    words = []
    for name, value in whole.items():
        values = value if isinstance(value, list) else [] if value is True else [value]
        words += [f"--{name}", *map(str, values)]
    return words
