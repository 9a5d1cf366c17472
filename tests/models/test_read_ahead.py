"""The model is read before it is wanted, and nothing goes wrong where it is not to be read."""

import io
from pathlib import Path
from typing import ClassVar

import pytest

from library.models import read_ahead as module
from library.models.read_ahead import read_ahead


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(100))
    return path


class Watched(io.FileIO):
    """A file that notes how much was read of it at once."""

    read_sizes: ClassVar[list[int]] = []

    def readinto(self, buffer):
        size = super().readinto(buffer)
        self.read_sizes.append(size)
        return size


def test_each_file_is_read_to_its_end(model, tmp_path, monkeypatch):
    other = tmp_path / "vae.safetensors"
    other.write_bytes(bytes(40))
    monkeypatch.setattr(module, "PIECE", 30)
    monkeypatch.setattr(Path, "open", lambda path, mode, buffering: Watched(path, mode))
    read_ahead(str(model), str(other)).join(10)
    assert Watched.read_sizes == [30, 30, 30, 10, 0, 30, 10, 0]


@pytest.mark.parametrize("paths", [("stabilityai/sdxl", None), ("", None), (None, None)])
def test_names_that_are_no_file_are_passed_over(paths):
    assert read_ahead(*paths) is None


def test_one_process_of_a_machine_reads(model, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert read_ahead(str(model)) is None


def test_a_file_that_would_fill_the_memory_is_not_read(model, monkeypatch):
    monkeypatch.setattr(module, "SHARE_OF_MEMORY", 0)
    assert read_ahead(str(model)) is None


def test_a_file_that_is_gone_ends_the_reading_only(model, monkeypatch):
    monkeypatch.setattr(module, "fit_in_memory", lambda files: model.unlink() or True)
    reader = read_ahead(str(model))
    reader.join(10)
    assert not reader.is_alive()
