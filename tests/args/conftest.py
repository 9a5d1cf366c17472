"""A small world of files that options can name."""

import logging
from pathlib import Path

import pytest

PLACEHOLDERS = ("MODEL", "DATA", "REG", "OUT", "LOG", "WEIGHTS", "DATASET_TOML")


@pytest.fixture(autouse=True)
def logging_left_as_it_was():
    """read_args sets up the root logger; pytest's own handlers must be back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """A path for each of PLACEHOLDERS: files and folders that exist, except OUT and LOG, which a run creates."""
    files = {name: tmp_path / name.lower() for name in PLACEHOLDERS}
    files["MODEL"] = tmp_path / "model.safetensors"
    for name in ("MODEL", "WEIGHTS", "DATASET_TOML"):
        files[name].write_bytes(b"")
    for name in ("DATA", "REG"):
        files[name].mkdir()
    return files


@pytest.fixture
def config_file(tmp_path):
    """Call it with a text: the path of a TOML file that holds it."""

    def write(text: str) -> str:
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write
