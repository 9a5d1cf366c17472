"""Kills training runs with SIGKILL and checks that nothing is lost: `python tests/kill_run.py --kills 40 [--seed 1] [--workers 2]`

A run on the tiny model caches latents, trains, saves networks, states and previews. It is killed at a random moment of one of these,
started again with the same command line (`--resume newest`), killed again, and in the end left alone. After each kill every file under a
final name must be whole; at each end the network must have the same bytes as that of a run that was never interrupted, the states too, and
no file may be missing.

Runs are forked from a process that has imported everything and read the models, so that a start costs little; so there is no kill
test where processes cannot be forked (Windows), or where torch holds a GPU.
"""

import argparse
import copy
import functools
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.data import latent_cache
from library.data.latent_files import open_npz
from library.files import LEFTOVER, WAITING
from library.models import sd, tokenizer
from library.saving.state import read_random_states, read_state
from library.saving.state_record import check_whole, read_record
from library.saving.weights import load_tensors
from library.training import base_models, network_recipe
from library.training.previews import Previews
from library.training.saving_points import SavePoints
from library.training.state_points import StatePoints
from tests.golden_workshop import Workshop
from tests.tiny_runs import picture_folder, small_run

PHASES = ("starting", "caching", "training", "saving a network", "saving a state", "drawing previews")
STARTING, CACHING, TRAINING, NETWORK, STATE, PREVIEWS = range(len(PHASES))
OPTIONS = (
    "--max_train_steps 6 --save_every_n_steps 2 --save_every_n_epochs 1 --save_state --cache_latents_to_disk --resume newest "
    "--network_dropout 0.2 --caption_dropout_rate 0.3 --shuffle_caption --flip_aug --noise_offset 0.1 --lr_scheduler cosine "
    "--sample_every_n_steps 3 --validation_split 0.2 --max_validation_steps 1 --network_train_unet_only "
    f"--network_args block_dims={','.join('2' if block in (4, 12, 20) else '0' for block in range(25))}"
).split()
IMAGES = 6
TARGETS = (CACHING, TRAINING, STATE, NETWORK, None, STATE, PREVIEWS)
"""Where kills are aimed at, in turn; None is anywhere."""


class Clock:
    """Shared with the run: which phase it is in, how often it entered each and how long it was in each (seconds)."""

    def __init__(self) -> None:
        self.shared = np.frombuffer(mmap.mmap(-1, 8 * (1 + 2 * len(PHASES))), dtype=np.float64)  # phase, entered..., seconds...
        self._since = 0.0

    def begin(self) -> None:
        self.shared[:] = 0
        self._since = time.monotonic()
        self._enter(STARTING)

    @property
    def phase(self) -> int:
        return int(self.shared[0])

    def entered(self, phase: int) -> int:
        return int(self.shared[1 + phase])

    def seconds(self, phase: int) -> float:
        return self.shared[1 + len(PHASES) + phase]

    def inside(self, phase: int, function: Callable) -> Callable:
        """`function`, but the clock stands on `phase` while it runs."""

        def wrapped(*args, **options):
            before = self.phase
            self._enter(phase)
            try:
                return function(*args, **options)
            finally:
                self._enter(before if before != STARTING or phase == CACHING else TRAINING)

        return wrapped

    def _enter(self, phase: int) -> None:
        now = time.monotonic()
        self.shared[1 + len(PHASES) + self.phase] += now - self._since
        self._since = now
        self.shared[0] = phase
        self.shared[1 + phase] += 1


def train_here(model: Path, place: Path, clock: Clock, options: Sequence[str]) -> None:
    """What a forked process does: prepares and trains. Its console goes to a file."""
    with open(place / "console.txt", "a", encoding="utf-8") as console:
        os.dup2(console.fileno(), 1)
        os.dup2(console.fileno(), 2)
        base_models.cache_group = clock.inside(CACHING, latent_cache.cache_latents)
        SavePoints._write_whole = clock.inside(NETWORK, SavePoints._write_whole)
        StatePoints._save = clock.inside(STATE, StatePoints._save)
        Previews._draw = clock.inside(PREVIEWS, Previews._draw)
        prompts = place / "prompts.txt"
        run = small_run(model, place / "data", place / "out", *options, "--sample_prompts", str(prompts))
        clock.inside(TRAINING, network_recipe.train)(run)


@dataclass
class Tally:
    """What all kills and ends came to."""

    kills: Counter = field(default_factory=Counter)
    ends: int = 0
    files: int = 0
    leftovers: int = 0
    broken: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


class Process:
    """A forked run. `status` is None while it goes on, else as of os.waitstatus_to_exitcode."""

    def __init__(self, work: Callable[[], None]):
        self.status: int | None = None
        sys.stdout.flush()
        self.number = os.fork()
        if self.number == 0:
            status = 1
            try:
                work()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)

    def alive(self) -> bool:
        if self.status is None:
            number, status = os.waitpid(self.number, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if number else None
        return self.status is None

    def wait(self, seconds: float = 600.0) -> bool:
        """Whether it ended within the time."""
        end = time.monotonic() + seconds
        while self.alive() and time.monotonic() < end:
            time.sleep(0.001)
        return self.status is not None

    def kill(self) -> None:
        if self.alive():
            os.kill(self.number, signal.SIGKILL)
            self.wait()


class Workplace:
    """Where runs are made. One folder for each, with its own data, as caches lie beside the images."""

    def __init__(self, root: Path, model: Path, options: Sequence[str] = OPTIONS):
        self.root, self.model, self.options, self.clock = root, model, list(options), Clock()

    def place(self, name: str) -> Path:
        folder = self.root / name
        picture_folder(folder / "data", IMAGES, repeats=1)
        (folder / "prompts.txt").write_text("a thing --w 64 --h 64 --s 2 --d 3\n", encoding="utf-8")
        return folder

    def start(self, place: Path) -> Process:
        self.clock.begin()
        return Process(functools.partial(train_here, self.model, place, self.clock, self.options))

    def finish(self, place: Path) -> None:
        """Runs to the end. Raises RuntimeError with the console if it fails."""
        process = self.start(place)
        process.wait()
        process.kill()
        self._check(process, place)

    def kill(self, place: Path, phase: int | None, chance: random.Random, whole: "Whole") -> int | None:
        """Starts a run and kills it somewhere in `phase`, None anywhere; the phase it was in, None if it had ended before."""
        process = self.start(place)
        if phase is None:
            delay = chance.uniform(0, whole.total)
        else:
            visit = chance.randint(1, 2 if whole.visits[phase] > 1 else 1)
            while self.clock.entered(phase) < visit and process.alive():
                time.sleep(0.001)
            delay = chance.uniform(0, whole.seconds[phase] / max(1, whole.visits[phase]))
        process.wait(delay)
        found = self.clock.phase
        process.kill()
        if process.status == -signal.SIGKILL:
            return found
        self._check(process, place)
        return None

    @staticmethod
    def _check(process: Process, place: Path) -> None:
        if process.status != 0:
            raise RuntimeError(f"status {process.status}\n" + (place / "console.txt").read_text(encoding="utf-8")[-4000:])


def read_models_once() -> None:
    """Keeps model and tokenizers in this process for those that are forked from it."""
    tokenizer_once, load_once = functools.cache(tokenizer.load_tokenizer), functools.cache(sd.SD.load)
    sd.load_tokenizer = tokenizer_once
    sd.SD.load = lambda self, path, **options: copy.deepcopy(load_once(self, path, **options))


class Whole:
    """The run that nobody interrupts: its files, and how long it was where."""

    def __init__(self, workplace: Workplace):
        self.place = workplace.place("whole")
        workplace.finish(self.place)
        self.visits = [workplace.clock.entered(phase) for phase in range(len(PHASES))]
        self.seconds = [workplace.clock.seconds(phase) for phase in range(len(PHASES))]
        self.total = sum(self.seconds)

    def differences(self, place: Path) -> list[str]:
        """What another run, at its end, has otherwise than this one."""
        ours, theirs = place / "out", self.place / "out"
        found = [f"{path.name} is missing" for path in sorted(theirs.iterdir()) if not (ours / path.name).exists()]
        for name in ["lora.safetensors", *(path.name for path in theirs.glob("*.safetensors"))]:
            if (ours / name).exists() and not same(load_tensors(ours / name), load_tensors(theirs / name)):
                found.append(f"{name} has other values")
        for name in (path.name for path in theirs.glob("*-state")):
            if (ours / name).exists() and not same(contents(ours / name), contents(theirs / name)):
                found.append(f"{name} has other values")
        return found


def contents(folder: Path) -> list:
    """All that a state holds."""
    state = read_state(folder)
    return [dict(state.network), dict(state.optimizer), state.scheduler, read_random_states(folder, 0), read_record(folder)]


def same(one, other) -> bool:
    """Whether nested values are the same to the last bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return one == other


def look_at_files(place: Path, tally: Tally) -> None:
    """Opens everything that has a final name; counts what has not."""
    for path in [*(place / "out").rglob("*"), *(place / "data").rglob("*")]:
        parts = path.relative_to(place).parts
        if any(LEFTOVER.fullmatch(part) for part in parts):
            tally.leftovers += LEFTOVER.fullmatch(path.name) is not None
            continue
        try:
            tally.files += look_at(path)
        except Exception as fault:  # whatever a reader says of it
            tally.broken.append(f"{path.relative_to(place)}: {fault}")


def look_at(path: Path) -> bool:
    """Whether it is a file or folder that is read whole here; raises what its reader raises."""
    if path.is_dir():
        if not path.name.removesuffix(WAITING).endswith("-state"):
            return False
        check_whole(path)
        contents(path)
    elif path.suffix == ".safetensors":
        load_tensors(path)
    elif path.suffix == ".png":
        with Image.open(path) as picture:
            picture.load()
    elif path.suffix == ".npz":
        with open_npz(path) as arrays:
            assert all(np.isfinite(arrays[name]).all() for name in arrays.files if arrays[name].dtype.kind == "f")
    elif path.suffix not in (".txt", ".json", ".bin", ".pkl", ".pt", ".toml"):
        raise ValueError("a file that nobody knows")
    return True


def killed(workplace: Workplace, whole: Whole, kills: int, seed: int, targets: Sequence[int | None], per_run: int) -> Tally:
    """Makes runs, each killed `per_run` times at `targets` in turn, until there were `kills` in all."""
    chance, tally = random.Random(seed), Tally()
    number = 0
    while sum(tally.kills.values()) < kills:
        place = workplace.place(f"run{number}")
        number += 1
        alive = True
        for _ in range(per_run):
            if not alive or sum(tally.kills.values()) >= kills:
                break
            done = sum(tally.kills.values())
            phase = workplace.kill(place, targets[done % len(targets)], chance, whole)
            alive = phase is not None
            if alive:
                tally.kills[PHASES[phase]] += 1
            look_at_files(place, tally)
            show(tally)
        if alive:
            workplace.finish(place)
        tally.ends += 1
        look_at_files(place, tally)
        tally.lost += [f"run {number}: {difference}" for difference in whole.differences(place)]
        shutil.rmtree(place)
        show(tally)
    return tally


def show(tally: Tally) -> None:
    counts = f"{tally.ends} runs ended, {tally.files} files opened, {tally.leftovers} leftovers"
    faults = f"lost: {len(tally.lost)}, broken: {len(tally.broken)}"
    print(f"{sum(tally.kills.values())} kills {dict(tally.kills)}, {counts}, {faults}", flush=True)


def table(tally: Tally) -> str:
    rows = ["| killed while | times |", "|---|---|", *(f"| {phase} | {tally.kills[phase]} |" for phase in PHASES)]
    rows += [
        f"| all | {sum(tally.kills.values())} |", "",
        f"runs that were then left to end: {tally.ends}; files opened after kills and ends: {tally.files}; "
        f"unfinished files and folders under temporary names: {tally.leftovers}",
        f"files under final names that were not whole: {len(tally.broken)}; lost: {len(tally.lost)}",
    ]  # fmt: skip
    return "\n".join([*rows, *tally.broken, *tally.lost])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--per_run", type=int, default=7, help="kills of one run before it is left to end (default: 7)")
    parser.add_argument("--workers", type=int, default=0, help="data loader workers (default: 0)")
    options = parser.parse_args()
    read_models_once()
    with tempfile.TemporaryDirectory() as folder:
        model = Workshop(Path(folder), Path(__file__).parent / "golden").model("sd1")
        workplace = Workplace(Path(folder), model, [*OPTIONS, "--max_data_loader_n_workers", str(options.workers)])
        place = workplace.place("warm-up")
        small_run(model, place / "data", place / "out", *workplace.options, "--sample_prompts", str(place / "prompts.txt"))
        whole = Whole(workplace)
        times = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in zip(PHASES, whole.seconds, strict=True))
        print(f"never interrupted: {whole.total:.1f} s; {times}", flush=True)
        tally = killed(workplace, whole, options.kills, options.seed, TARGETS, options.per_run)
    print(table(tally))
    sys.exit(bool(tally.lost or tally.broken))


if __name__ == "__main__":
    main()
