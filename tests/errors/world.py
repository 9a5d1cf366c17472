"""A small world of files in which a wrong command line is typed, and what the program then says."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import pytest

from tests.data.scenes import paint
from tests.tiny_runs import arguments

SCRIPTS = {"sd": "train_network", "sdxl": "sdxl_train_network"}
BASE_MODEL = {"sd": "sd1", "sdxl": "sdxl"}


AT_ONCE, SOON, LATER = "at once", "soon", "later"
"""Before more than torch is imported; before a model is loaded; by what a file, a model or the training itself shows."""


class Reached(AssertionError):
    """A mistake that can be seen before was not: the run came so far."""


@dataclass(frozen=True)
class WrongInput:
    """One row of docs/errors.md.

    wrong: what is wrong, for the document. said: what is read, "…" for any text. options: what differs from a good command line (see
    tests.tiny_runs.arguments). files: path -> content, or a function that writes it. patch: what a test must do to the process to be
    there, such as taking a package away. when: it is told, one of the three above. goes_on: told in a log line, and the run goes on.
    status: of the process that ends.
    """

    wrong: str
    said: str
    options: Mapping = field(default_factory=dict)
    files: Mapping[str, str | bytes | Callable[[Path], object]] = field(default_factory=dict)
    script: str = "sd"
    patch: Callable[[pytest.MonkeyPatch], None] | None = None
    when: str = AT_ONCE
    goes_on: bool = False
    status: int = 1


def build(folder: Path, shared: Path) -> None:
    """Three pictures with captions, and links to everything in `shared` (models, an earlier run)."""
    for number in range(3):
        image = paint(folder / "images" / "4_thing" / f"p{number}.png", seed=number)
        image.with_suffix(".txt").write_text(f"picture {number}, red", encoding="utf-8")
    for path in shared.iterdir():
        (folder / path.name).symlink_to(path.resolve())


def write_files(row: WrongInput) -> None:
    """In the current folder."""
    for name, content in row.files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content, encoding="utf-8")


def command_line(row: WrongInput) -> list[str]:
    return arguments(Path(BASE_MODEL[row.script]), Path("images"), Path("output"), **row.options)


def typed(row: WrongInput, folder: Path, patch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Types the row's command line in `folder` and runs the entry script in this process: exit status, stderr."""
    patch.chdir(folder)
    write_files(row)
    patch.setattr(sys, "argv", [f"{SCRIPTS[row.script]}.py", *command_line(row)])
    if row.goes_on:
        patch.setattr("library.training.network_recipe.train", lambda run: None)
    if row.patch:
        row.patch(patch)
    entry = import_module(SCRIPTS[row.script])
    if row.when == AT_ONCE:
        patch.setattr(entry, "leave_unused_packages_out", reached("diffusers is imported"))
    elif row.when == SOON:
        forbid_loading(patch)
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()), _fresh_processes_state():
        try:
            entry.main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
    return status, told.getvalue()


def reached(what: str) -> Callable:
    """A function that must not be called."""

    def fail(*args, **options):
        raise Reached(f"{what} before the mistake is told")

    return fail


def forbid_loading(patch: pytest.MonkeyPatch) -> None:
    from library.models import sd, sdxl

    for family in (sd.SD, sdxl.SDXL):
        patch.setattr(family, "load", reached("the model is loaded"))


@contextlib.contextmanager
def _fresh_processes_state():
    """accelerate keeps one state for a process; a run in a test shall begin without and leave the one before as it was."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    shared = [state._shared_state for state in (PartialState, AcceleratorState, GradientState)]
    before = [dict(values) for values in shared]
    for values in shared:
        values.clear()
    try:
        yield
    finally:
        for values, old in zip(shared, before, strict=True):
            values.clear()
            values.update(old)


def message(stderr: str, folder: Path) -> str:
    """What was said: the text behind the last `error: ` up to a hint or a traceback below it; the world's folder is written FOLDER."""
    behind = re.split(r"(?:\A|(?<=[\n\r\]])|(?<=\.py: ))error: ", stderr)
    text = re.split(r"\n\(--console_log_level|\nTraceback|\nSee |\r", behind[-1])[0] if len(behind) > 1 else ""
    for place in {str(folder), os.path.realpath(folder)}:
        text = text.replace(place, "FOLDER")
    return text.strip()


def as_pattern(said: str) -> re.Pattern:
    """`said` with "…" for any text."""
    return re.compile(".*?".join(re.escape(part) for part in said.split("…")), re.DOTALL)


def shared_files(folder: Path, tiny_models: Callable[[str], Path]) -> Path:
    """What all worlds link to: tiny models as folders and single files, and the LoRA and the training state of an earlier run."""
    import torch
    from safetensors.torch import save_file

    from tests.tiny_runs import picture_folder, prepared, trained
    from tests.tiny_single_files import write_single_file

    folder.mkdir()
    for kind in ("sd1", "sd2", "sdxl"):
        (folder / kind).symlink_to(tiny_models(kind))
        write_single_file(kind, tiny_models(kind), folder / f"{kind}.safetensors")
    out = folder / "earlier"
    data = picture_folder(folder / "earlier_images", count=2, repeats=1)
    with _fresh_processes_state():
        trained(prepared("sd", arguments(tiny_models("sd1"), data, out, max_train_steps=1, save_state=True)))
    save_file({"lora_unet_input_blocks_4_1_proj_in.lora_down.weight": torch.zeros(4, 32)}, folder / "sdxl_lora.safetensors")
    return folder
