"""metadata_cache.json: written and read as the reference does, believed only while it is true."""

import json
import os

import pytest

from library.data import registration
from library.data.info_cache import FILE_NAME
from library.data.registration import register_images
from library.data.subsets import Subset
from tests.data.drawn import draw, settings


def register(folder, **options):
    subset = Subset(image_dir=str(folder), caption_extension=".txt", cache_info=True)
    wanted = {"validation": False, "strict_compat": False} | options
    return {key: (record.caption, record.size) for key, record in register_images(settings(subset), **wanted).records.items()}


def written(folder):
    return json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))


def test_the_file_holds_caption_and_size_of_each_image(tmp_path):
    (path,) = draw(tmp_path, "a.png", size=(10, 20), caption="Kätzchen")
    register(tmp_path)
    assert (tmp_path / FILE_NAME).read_text(encoding="utf-8") == json.dumps(
        {path: {"caption": "Kätzchen", "resolution": [10, 20]}}, ensure_ascii=False, indent=2
    )


def test_a_true_file_is_used_instead_of_the_images(tmp_path, monkeypatch):
    draw(tmp_path, "a.png", "b.png", caption="cat")
    first = register(tmp_path)
    monkeypatch.setattr(registration, "read_captions", None)
    assert register(tmp_path) == first


@pytest.mark.parametrize("change", ["added", "removed", "recaptioned"])
def test_a_file_that_is_no_longer_true_is_told_and_written_again(tmp_path, caplog, change):
    draw(tmp_path, "a.png", "b.png", caption="cat")
    register(tmp_path)
    if change == "added":
        draw(tmp_path, "c.png", caption="cat")
    if change == "removed":
        (tmp_path / "a.png").unlink()
    if change == "recaptioned":
        (tmp_path / "a.txt").write_text("dog", encoding="utf-8")
        later = os.path.getmtime(tmp_path / FILE_NAME) + 5
        os.utime(tmp_path / "a.txt", (later, later))
    found = register(tmp_path)
    assert "out of date" in caplog.text
    assert written(tmp_path) == {path: {"caption": caption, "resolution": list(size)} for path, (caption, size) in found.items()}


def test_strict_mode_believes_the_file_in_its_own_order(tmp_path):
    (tmp_path / FILE_NAME).write_text(
        json.dumps({name: {"caption": name, "resolution": [3, 4]} for name in ("z.png", "a.png")}), encoding="utf-8"
    )
    assert list(register(tmp_path, strict_compat=True).items()) == [("z.png", ("z.png", (3, 4))), ("a.png", ("a.png", (3, 4)))]


def test_a_validation_split_is_not_written_into_the_file(tmp_path):
    paths = draw(tmp_path, "a.png", "b.png", caption="cat")
    subset = Subset(image_dir=str(tmp_path), caption_extension=".txt", cache_info=True)
    register_images(settings(subset, validation_split=0.5), validation=False, strict_compat=False)
    assert list(written(tmp_path)) == paths


def test_a_damaged_file_is_named(tmp_path):
    draw(tmp_path, "a.png")
    (tmp_path / FILE_NAME).write_text('{"a.png": {}}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"metadata_cache\.json is damaged.*delete it"):
        register(tmp_path)
