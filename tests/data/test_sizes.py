"""Sizes from headers."""

import pytest
from PIL import Image

from library.data import threads
from library.data.sizes import bad_images_message, probe_sizes
from library.data.threads import map_in_threads


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp"])
def test_the_size_is_width_and_height(tmp_path, name):
    path = str(tmp_path / name)
    Image.new("RGB", (31, 17)).save(path)
    assert probe_sizes([path]) == ({path: (31, 17)}, {})


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 50}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_every_form_of_webp_has_its_true_size(tmp_path, mode, options):
    path = str(tmp_path / "a.webp")
    Image.new(mode, (301, 17), (1, 2, 3, 4)[: len(mode)]).save(path, **options)
    assert probe_sizes([path])[0] == {path: (301, 17)}


def test_a_photo_is_measured_as_it_is_stored_not_as_it_is_turned(tmp_path):
    path, exif = str(tmp_path / "a.jpg"), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (31, 17)).save(path, exif=exif)
    assert probe_sizes([path])[0] == {path: (31, 17)}


def test_a_file_is_known_by_its_content_not_its_ending(tmp_path):
    path = str(tmp_path / "a.webp")
    Image.new("RGB", (31, 17)).save(path, "PNG")
    assert probe_sizes([path])[0] == {path: (31, 17)}


def test_each_unreadable_file_gets_its_reason(tmp_path):
    Image.new("RGB", (31, 17)).save(tmp_path / "whole.webp")
    whole = (tmp_path / "whole.webp").read_bytes()
    for name, content in (("empty.png", b""), ("text.jpg", b"hello"), ("head.png", b"\x89PNG\r\n\x1a\n\0\0"), ("cut.webp", whole[:-4])):
        (tmp_path / name).write_bytes(content)
    paths = [str(tmp_path / name) for name in ("empty.png", "text.jpg", "head.png", "cut.webp", "gone.png")]
    sizes, problems = probe_sizes(paths)
    assert (sizes, list(problems)) == ({}, paths) and problems[paths[-1]] == "there is no such file"


def test_the_message_lists_twenty_files_and_counts_the_rest():
    message = bad_images_message({f"{number}.png": "empty" for number in range(23)})
    assert "23 images cannot be used" in message and "19.png: empty" in message and "20.png" not in message and "and 3 more" in message


@pytest.mark.parametrize("slow", [0.0, 1.0])
def test_work_in_threads_keeps_its_order(monkeypatch, slow):
    monkeypatch.setattr(threads, "SLOW", slow)
    assert map_in_threads(str, range(1000)) == [str(number) for number in range(1000)]
