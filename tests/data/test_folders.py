"""Listing images, and pairing them with masks."""

from pathlib import Path

import pytest

from library.data import folders
from library.data.folders import list_images, pair_with_conditioning


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return str(folder)


def names(listing):
    return [path.rsplit("/", 1)[-1] for path in listing.images]


def test_images_are_sorted_as_text_and_other_files_are_no_images(tmp_path):
    folder = touch(tmp_path, "b.png", "a10.jpg", "a2.webp", "A.BMP", "a.txt", ".hidden.png", "noending")
    (tmp_path / "folder.png").mkdir()
    assert names(list_images(folder)) == ["A.BMP", "a10.jpg", "a2.webp", "b.png"]


def test_an_ending_of_mixed_case_counts_except_in_strict_mode(tmp_path):
    folder = touch(tmp_path, "a.Jpg", "b.JPG")
    assert (names(list_images(folder)), names(list_images(folder, any_case=False))) == (["a.Jpg", "b.JPG"], ["b.JPG"])


def test_brackets_in_a_folder_name_are_ordinary_letters(tmp_path):
    assert names(list_images(touch(tmp_path / "[a] *", "x.png"))) == ["x.png"]


def test_images_that_need_a_missing_package_are_told_with_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "image_extensions", lambda: folders.EXTENSIONS)
    listing = list_images(touch(tmp_path, "a.jxl", "b.JXL", "c.png"))
    assert names(listing) == ["c.png"]
    assert listing.unreadable == dict.fromkeys(
        (str(tmp_path / "a.jxl"), str(tmp_path / "b.JXL")), "reading .jxl files needs: pip install pillow-jxl-plugin"
    )


def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"the folder .*absent cannot be read"):
        list_images(str(tmp_path / "absent"))


def test_images_and_masks_are_paired_by_name_whatever_the_ending(tmp_path):
    images = list_images(touch(tmp_path / "i", "a.png", "b.jpg")).images
    masks, problems = pair_with_conditioning(images, touch(tmp_path / "m", "a.jpg", "a.png", "b.webp"))
    assert [path.name for path in masks.values()] == ["a.jpg", "b.webp"] and not problems


def test_all_missing_and_all_extra_masks_are_told(tmp_path):
    images = list_images(touch(tmp_path / "i", "a.png", "b.png", "c.png")).images
    masks, problems = pair_with_conditioning(images, touch(tmp_path / "m", "c.png", "d.png", "e.png"))
    assert list(masks) == images[2:]
    assert [(Path(path).name, problem.split(" in ")[0]) for path, problem in problems.items()] == [
        ("a.png", "it has no mask"), ("b.png", "it has no mask"), ("d.png", "a mask without an image"), ("e.png", "a mask without an image")
    ]


def test_a_missing_folder_of_masks_is_named(tmp_path):
    with pytest.raises(ValueError, match="absent: there is no such folder"):
        pair_with_conditioning([], str(tmp_path / "absent"))
