"""The index of large folders: what it saves, and that it is never believed about a file that has changed."""

import json
import os
from pathlib import Path

import pytest

from library.data import image_index, registration, sizes
from library.data.image_index import FILE_NAME, ImageIndex
from library.data.registration import register_images
from library.data.subsets import Subset
from tests.data.drawn import draw, settings

LONG_AGO = 10**9


@pytest.fixture(autouse=True)
def small_folders_have_an_index_too(monkeypatch, tmp_path):
    monkeypatch.setattr(registration, "INDEX_FROM", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.delenv("LOCALAPPDATA", raising=False)


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The images whose headers are read."""
    seen = []
    measure = sizes._measured
    monkeypatch.setattr(sizes, "_measured", lambda path: seen.append(Path(path).name) or measure(path))
    return seen


@pytest.fixture
def folder(tmp_path) -> Path:
    draw(tmp_path / "images", "a.png", "b.png", "\u732b.png", caption="cat, \u72ac")
    age(tmp_path / "images")
    return tmp_path / "images"


def age(folder: Path) -> None:
    for path in folder.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))


def facts(folder: Path, **options) -> dict[str, tuple]:
    subset = Subset(image_dir=str(folder), caption_extension=".txt")
    registered = register_images(settings(subset), validation=False, strict_compat=False, **options)
    return {Path(record.key).name: (record.size, record.caption) for record in registered.records.values()}


def test_a_second_start_opens_no_image_and_finds_the_same(folder, opened, monkeypatch):
    first = facts(folder)
    assert len(opened) == 3
    monkeypatch.setattr("library.data.caption_files._text", None)
    assert facts(folder) == first == dict.fromkeys(("a.png", "b.png", "\u732b.png"), ((8, 6), "cat, \u72ac"))
    assert len(opened) == 3


def test_only_a_changed_image_is_opened_again(folder, opened):
    facts(folder)
    opened.clear()
    draw(folder, "b.png", size=(9, 7))
    assert facts(folder)["b.png"][0] == (9, 7) and opened == ["b.png"]


def test_a_changed_caption_of_the_same_length_is_read_again(folder):
    facts(folder)
    (folder / "a.txt").write_text("dog, \u72ac", encoding="utf-8")
    os.utime(folder / "a.txt", (LONG_AGO + 1, LONG_AGO + 1))
    assert facts(folder)["a.png"][1] == "dog, \u72ac"


def test_files_changed_a_moment_ago_are_not_noted(folder):
    draw(folder, "new.png")
    facts(folder)
    assert set(json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))["sizes"]) == {"a.png", "b.png", "\u732b.png"}


def test_images_that_are_gone_are_forgotten_when_something_is_new(folder):
    facts(folder)
    (folder / "a.png").unlink()
    draw(folder, "c.png")
    os.utime(folder / "c.png", (LONG_AGO, LONG_AGO))
    facts(folder)
    assert set(ImageIndex.of(str(folder)).sizes) == {"b.png", "\u732b.png", "c.png"}


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"version": 99, "sizes": {}, "captions": {}}', '{"version": 1, "sizes": {"a.png": [1, 2, [0, 5]]}, "captions": {}}',
     '{"version": 1, "sizes": {"a.png": 3}, "captions": {}}', '{"version": 1, "sizes": {}, "captions": {"a.txt": [1, 2, 3]}}'],
)
def test_a_damaged_index_is_told_and_made_again(folder, content, caplog):
    expected = facts(folder)
    (folder / FILE_NAME).write_text(content)
    assert facts(folder) == expected
    assert "cannot be used" in caplog.text and len(ImageIndex.of(str(folder)).sizes) == 3


def test_a_bad_image_is_never_noted_as_good(folder, opened):
    (folder / "bad.png").write_bytes(b"no image")
    os.utime(folder / "bad.png", (LONG_AGO, LONG_AGO))
    for _ in range(2):
        assert "bad.png" not in facts(folder, skip_bad_images=True)
    assert opened.count("bad.png") == 2


def test_a_folder_that_cannot_be_written_has_its_index_in_the_users_caches(folder, tmp_path, opened, monkeypatch):
    written_whole = image_index.written_whole

    def refusing(path):
        if path.parent == folder:
            raise PermissionError(13, "Permission denied")
        return written_whole(path)

    monkeypatch.setattr(image_index, "written_whole", refusing)
    first = facts(folder)
    assert not (folder / FILE_NAME).exists() and len(list((tmp_path / "caches").rglob("*.json"))) == 1
    assert facts(folder) == first and len(opened) == 3


def test_no_index_is_kept_where_none_is_wanted(folder):
    facts(folder, use_index=False)
    assert not (folder / FILE_NAME).exists()


def test_small_folders_have_none(folder, monkeypatch):
    monkeypatch.setattr(registration, "INDEX_FROM", 4)
    facts(folder)
    assert not (folder / FILE_NAME).exists()
