"""Listing images, and pairing them with masks."""

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


def test_images_that_need_a_missing_package_are_counted_in_one_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(folders, "image_extensions", lambda: folders.EXTENSIONS)
    assert names(list_images(touch(tmp_path, "a.jxl", "b.JXL", "c.png"))) == ["c.png"]
    assert "2 .jxl images left out, reading them needs: pip install pillow-jxl-plugin" in caplog.text


def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"the folder .*absent cannot be read"):
        list_images(str(tmp_path / "absent"))


def test_images_and_masks_are_paired_by_name_whatever_the_ending(tmp_path):
    images = list_images(touch(tmp_path / "i", "a.png", "b.jpg")).images
    masks = pair_with_conditioning(images, touch(tmp_path / "m", "a.jpg", "a.png", "b.webp"))
    assert [path.name for path in masks.values()] == ["a.jpg", "b.webp"]


def test_all_missing_and_all_extra_masks_are_named(tmp_path):
    images = list_images(touch(tmp_path / "i", "a.png", "b.png", "c.png")).images
    with pytest.raises(ValueError) as error:
        pair_with_conditioning(images, touch(tmp_path / "m", "c.png", "d.png", "e.png"))
    assert all(name in str(error.value) for name in ("2 images have no mask", "a.png", "b.png", "2 masks have no image", "d.png", "e.png"))


def test_a_missing_folder_of_masks_is_named(tmp_path):
    with pytest.raises(ValueError, match="absent: there is no such folder"):
        pair_with_conditioning([], str(tmp_path / "absent"))
