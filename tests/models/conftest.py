"""Tiny models in both layouts, written once per session."""

from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock

from library.models.sd import SD
from library.models.sdxl import SDXL
from tests.tiny_single_files import comparable_folder, write_single_file

FAMILIES = {"sd1": SD(), "sd2": SD(v2=True), "sdxl": SDXL()}


class Layouts(NamedTuple):
    folder: Path
    single_file: Path


@pytest.fixture(scope="session")
def layouts(session_folder):
    """Call it with "sd1", "sd2" or "sdxl": the same tiny model as a diffusers folder and as a single file."""

    def written(kind: str) -> Layouts:
        root = session_folder / f"layouts_{kind}"
        with FileLock(session_folder / f"layouts_{kind}.lock"):
            if not (root / "done").exists():
                comparable_folder(kind, root / "folder")
                write_single_file(kind, root / "folder", root / "single.safetensors")
                (root / "done").touch()
        return Layouts(root / "folder", root / "single.safetensors")

    return written
