"""A folder is there whole or not at all, whenever the program is killed."""

import os

import pytest

from library import files
from library.files import begin_folder, finish_folder, remove_folder, remove_leftovers, replacement, written_whole


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


def test_a_finished_folder_replaces_the_one_before(tmp_path):
    for text in ("old", "new"):
        (begin_folder(tmp_path / "state") / "file").write_text(text)
        finish_folder(tmp_path / "state")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert (tmp_path / "state" / "file").read_text() == "new"


def test_what_a_killed_run_left_is_not_taken_over(tmp_path):
    (begin_folder(tmp_path / "state") / "half").write_text("")
    (begin_folder(tmp_path / "state") / "file").write_text("")
    finish_folder(tmp_path / "state")
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["file"]


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_a_kill_between_two_renames_loses_no_state(tmp_path, monkeypatch, moment):
    for text in ("old", "new"):
        (begin_folder(tmp_path / "state") / "file").write_text(text)
        if text == "old":
            finish_folder(tmp_path / "state")
    renames, rename = [], os.replace
    assert not replacement(tmp_path / "state").exists()

    def killed(*paths):
        renames.append(paths)
        if len(renames) == moment:
            raise Killed
        rename(*paths)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(Killed):
        finish_folder(tmp_path / "state")
    assert {path.read_text() for path in tmp_path.rglob("file")} == {"old", "new"}
    assert (tmp_path / "state").exists() or (replacement(tmp_path / "state") / "file").read_text() == "new"


def test_to_remove_what_is_not_there_is_no_error(tmp_path):
    remove_folder(tmp_path / "state")
    assert not list(tmp_path.iterdir())


def test_leftovers_of_a_kill_go_and_what_may_be_in_use_stays(tmp_path):
    unfinished = begin_folder(tmp_path / "lora-state")
    (unfinished / "file").write_text("")
    for name in ("lora.safetensors", "other.safetensors"):
        with pytest.raises(Killed), written_whole(tmp_path / name) as temporary:
            kept = temporary.rename(tmp_path / f".{name}.abcd_123.tmp")
            raise Killed
    (tmp_path / ".lora.tmp").write_text("another program's")
    assert remove_leftovers(tmp_path, lambda name: name.startswith("lora"), older_than=60) == 0
    assert remove_leftovers(tmp_path, lambda name: name.startswith("lora")) == 2
    assert {path.name for path in tmp_path.iterdir()} == {kept.name, ".lora.tmp"}


@pytest.fixture
def held_open(monkeypatch):
    """Call it with a number: so many attempts to rename fail, as on Windows while another program reads the file."""
    rename = os.replace

    def hold(times: int) -> list[float]:
        pauses, left = [], iter(range(times))

        def refused(*paths):
            if next(left, None) is not None:
                raise PermissionError(13, "Access is denied")
            rename(*paths)

        monkeypatch.setattr(os, "replace", refused)
        monkeypatch.setattr(files, "OPEN_FILES_STAY", True)
        monkeypatch.setattr(files.time, "sleep", pauses.append)
        return pauses

    return hold


def test_a_file_that_a_scanner_holds_open_is_waited_for(tmp_path, held_open):
    pauses = held_open(3)
    with written_whole(tmp_path / "lora") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "lora").read_text() == "new" and len(pauses) == 3


def test_a_file_that_stays_open_is_named_and_keeps_its_content(tmp_path, held_open):
    (tmp_path / "lora").write_text("old")
    held_open(100)
    with pytest.raises(PermissionError, match="open in another program.*lora"), written_whole(tmp_path / "lora"):
        pass
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_folder_that_may_not_be_written_is_told_at_once(tmp_path, held_open, monkeypatch):
    pauses = held_open(100)
    monkeypatch.setattr(files, "OPEN_FILES_STAY", False)
    with pytest.raises(PermissionError, match="denied"), written_whole(tmp_path / "lora"):
        pass
    assert not pauses
