import os

import pytest

from library.saving import hash_memory, hashes
from library.saving.hashes import FileHashes, file_hashes


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model file whose hashes are worth keeping, and a memory of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_memory, "WORTH_IT", 10)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a" * 100)
    return path


@pytest.fixture
def reads(monkeypatch):
    """The files that were read for their hashes."""
    read = []
    monkeypatch.setattr(hashes, "file_hashes", lambda path: read.append(path) or file_hashes(path))
    return read


def test_a_file_is_read_once_for_its_hashes(model, reads):
    assert FileHashes(model).result() == FileHashes(model).result() == file_hashes(model)
    assert reads == [model]


def test_a_file_that_changed_is_read_again(model, reads):
    FileHashes(model).result()
    model.write_bytes(b"b" * 100)
    os.utime(model, ns=(1, 1))
    assert FileHashes(model).result() == file_hashes(model)
    assert len(reads) == 2


def test_small_files_leave_nothing_behind(model, reads, monkeypatch):
    monkeypatch.setattr(hash_memory, "WORTH_IT", 1000)
    FileHashes(model).result()
    assert not hash_memory.memory_path().exists()


@pytest.mark.parametrize("text", ["{", "[1]", '{"x": 3}'])
def test_a_memory_that_is_damaged_is_made_anew(model, reads, text):
    hash_memory.memory_path().parent.mkdir(parents=True)
    hash_memory.memory_path().write_text(text)
    assert FileHashes(model).result() == file_hashes(model)
    assert hash_memory.recall(model) == file_hashes(model)


def test_a_memory_that_cannot_be_written_stops_nothing(model, reads):
    hash_memory.memory_path().parent.parent.write_text("a file where the folder should be")
    assert FileHashes(model).result() == file_hashes(model)
