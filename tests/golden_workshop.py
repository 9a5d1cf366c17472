"""Where golden runs are made: tiny models, data folders and outputs, shared by all workers of a test session.

A recording (`runs/NAME.json`, also `.json.gz`) holds the command line of one training run of the reference and all that was
measured in it. `Workshop.made(name)` trains the same command line here and returns what was measured, in the same form.
"""

import contextlib
import gc
import gzip
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

MODEL_SEED = 1234
MODEL_KINDS = {"{MODEL_SD1}": "sd1", "{MODEL_SD2}": "sd2", "{MODEL_SDXL}": "sdxl"}
SCRIPT_NAMES = {"sd": "train_network", "sdxl": "sdxl_train_network"}


def recorded_names(golden: Path) -> list[str]:
    """The names of all recorded runs below `golden`, sorted."""
    return sorted({path.name.partition(".")[0] for path in (golden / "runs").glob("*.json*")})


def read_json(path: Path) -> dict:
    """A JSON file, or the same with `.gz` behind its name. Raises FileNotFoundError if neither exists."""
    packed = path.with_name(path.name + ".gz")
    if path.suffix == ".gz":
        path, packed = path.with_suffix(""), path
    if packed.exists():
        return json.loads(gzip.decompress(packed.read_bytes()))
    return json.loads(path.read_text(encoding="utf-8"))


def recorded_run(golden: Path, name: str) -> dict:
    """The recording of one run; `final["tensors"]` is the table of the saved network: key -> [dtype, shape, L2 norm, ...]."""
    recording = read_json(golden / "runs" / f"{name}.json")
    if recording.get("final"):
        recording["final"]["tensors"] = read_json(golden / recording["final"]["tensors_file"])
    return recording


class Workshop:
    """`root`: a folder of the session. `golden`: the folder of recordings."""

    def __init__(self, root: Path, golden: Path):
        self.root = root
        self.golden = Path(golden)

    def model(self, kind: str) -> Path:
        """The diffusers folder of a tiny model: "sd1", "sd2" or "sdxl"."""
        folder = self.root / f"model_{kind}"
        with self._locked(folder.name):
            if not folder.exists():
                from tests.tiny_models import write_folder

                unfinished = self.root / f"unfinished_{kind}"
                shutil.rmtree(unfinished, ignore_errors=True)
                write_folder(kind, unfinished, MODEL_SEED, None)
                unfinished.rename(folder)
        return folder

    def made(self, name: str) -> dict:
        """Our recording of the run. It is made once in a session, the runs it needs before it.

        Raises whatever training raises, among it ValueError for a command line that is refused.
        """
        recording = recorded_run(self.golden, name)
        for needed in recording["needs"]:
            if not self._artifact(needed).exists():
                self.made(needed)
        place = self.root / "runs" / name
        with self._locked(f"run_{name}"):
            result = place / "recording.json"
            if not result.exists():
                shutil.rmtree(place, ignore_errors=True)
                text = json.dumps(self._train(recording, place), ensure_ascii=False)
                result.write_text(text, encoding="utf-8")
            return json.loads(result.read_text(encoding="utf-8"))

    def _train(self, recording: dict, place: Path) -> dict:
        data, out, config = self._folders(recording, place)
        replace = self._placeholders(recording, data, out, config)
        for file_name, text in recording["files"].items():
            (config / file_name).write_text(replace(text), encoding="utf-8")
        argv = [replace(argument) for argument in recording["args"]] + ["--strict_compat"]
        args, family = read_command_line(recording["script"], argv)

        import torch
        from accelerate.state import AcceleratorState, GradientState

        from library.training.network_recipe import prepare, train
        from tests.golden_recorder import Recorder

        torch.set_num_threads(1)
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        run = prepare(args, family)
        recorder = Recorder(run)
        train(run)
        made = recorder.recording(out, data, (recording.get("final") or {}).get("file"))
        del run, recorder
        gc.collect()
        return made

    def _folders(self, recording: dict, place: Path) -> tuple[Path, Path, Path]:
        """The data (a fresh copy, or what `data_from` left), the empty output folder, the folder of config files."""
        data, out, config = place / "data", place / "out", place / "config"
        if recording.get("data_from"):
            data = self.root / "runs" / recording["data_from"] / "data"
        else:
            shutil.copytree(self.golden / "dataset", data, copy_function=shutil.copyfile)
            for folder in [data, *(path for path in data.rglob("*") if path.is_dir())]:
                folder.chmod(0o755)
        out.mkdir(parents=True)
        config.mkdir()
        return data, out, config

    def _placeholders(self, recording: dict, data: Path, out: Path, config: Path):
        """A function that fills the {PLACEHOLDERS} of recorded arguments and files."""
        tokenizers = self.root / f"tokenizers_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
        tokenizers.mkdir(exist_ok=True)
        folders = {"{TOK}": tokenizers, "{DATA}": data, "{OUT}": out, "{CFG}": config}
        everything = " ".join([*recording["args"], *recording["files"].values()])
        folders |= {mark: self.model(kind) for mark, kind in MODEL_KINDS.items() if mark in everything}

        def replace(text: str) -> str:
            for mark, folder in folders.items():
                text = text.replace(mark, folder.as_posix())
            return re.sub(r"\{RUNS\}/(\w+)/out", lambda found: self._output_of(found[1]).as_posix(), text)

        return replace

    def _artifact(self, name: str) -> Path:
        return self.golden / "artifacts" / f"{name}.safetensors"

    def _output_of(self, name: str) -> Path:
        """The output folder of another run: with the network the reference saved where that is kept, else our own."""
        if not self._artifact(name).exists():
            return self.root / "runs" / name / "out"
        folder = self.root / "artifacts" / name
        with self._locked(f"artifact_{name}"):
            if not folder.exists():
                folder.mkdir(parents=True)
                shutil.copyfile(self._artifact(name), folder / "lora.safetensors")
        return folder

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with FileLock(self.root / f"{name}.lock"):
            yield


def read_command_line(script: str, argv: list[str]):
    """The arguments and the model family, read the way the entry script for `script` ("sd" or "sdxl") reads them.

    Raises BadArguments where the entry script would print it and end.
    """
    from library.args.errors import BadArguments
    from library.args.parser import setup_parser
    from library.args.reading import read_args

    name = SCRIPT_NAMES[script]
    try:
        args = read_args(setup_parser(name), name, argv)
    except SystemExit as end:
        if isinstance(end.__context__, BadArguments):
            raise end.__context__ from None
        raise
    if script == "sdxl":
        from library.models.sdxl import SDXL as family
    else:
        from library.models.sd import SD as family
    return args, family.from_args(args)
