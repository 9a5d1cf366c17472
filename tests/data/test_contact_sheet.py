"""The contact sheet of --debug_dataset: what it shows, and what it leaves alone."""

import html
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from library.data import fonts
from library.data.contact_sheet import write_contact_sheet
from library.data.loader import BatchLoader
from library.data.subsets import Subset
from tests.data.scenes import painted_group

LOADER = {"workers": 0, "persistent_workers": False, "shuffle": True, "seed": 1, "strict_compat": False}


def written(group, folder, **options) -> str:
    write_contact_sheet(BatchLoader(group, **LOADER).epoch(1), group.num_train_images, "a < table", folder, **options)
    return (folder / "index.html").read_text(encoding="utf-8")


def test_each_sample_of_the_epoch_has_its_place_with_caption_and_bucket(tmp_path):
    group = painted_group(tmp_path, 3, sizes=((64, 64), (128, 64)), resolution=(128, 64))
    page = written(group, tmp_path / "sheet")
    assert sorted(re.findall(r"<b>(.*?)</b>", page)) == ["i0.png"] * 3 + ["i1.png"] * 3 + ["i2.png"] * 3
    assert page.count("bucket 128x64, from 128x64") == 3 and page.count("a picture, i2, red, green, blue") == 3
    assert "a &lt; table" in page and len(list((tmp_path / "sheet/thumbnails").iterdir())) == 9


def test_captions_cannot_change_the_page(tmp_path):
    group = painted_group(tmp_path, 1)
    for record in group.datasets[0].records.values():
        record.caption = "<script> & \u732b"
    page = written(group, tmp_path / "sheet")
    assert html.escape("<script> & \u732b") in page and "<script>" not in page


def test_the_picture_is_the_one_trained_on_and_dark_where_a_mask_hides_it(tmp_path):
    subset = Subset(image_dir=str(tmp_path), flip_aug=True, alpha_mask=True)
    group = painted_group(tmp_path, 1, mode="RGBA", subset=subset)
    batch = group[1, 0, 0]
    write_contact_sheet([batch], 1, "", tmp_path / "sheet")
    shown = np.asarray(Image.open(tmp_path / "sheet/thumbnails/0001.png")) / 255
    light = (batch.images[0] / 255) * (0.3 + 0.7 * batch.alpha_masks[0])
    assert np.abs(shown - light.permute(1, 2, 0).numpy()).max() < 0.01


@pytest.mark.parametrize(("caption", "names", "chosen"), [
    ("a cat", ["msgothic.ttc"], None), ("\u732b", ["arial.ttf", "msgothic.txt"], None),
    ("\u732b", ["simsun.ttc", "MSGothic.TTC"], "MSGothic.TTC"),
])  # fmt: skip
def test_east_asian_captions_take_a_font_of_the_system_if_it_has_one(caption, names, chosen, tmp_path, monkeypatch):
    for name in names:
        (tmp_path / name).touch()
    monkeypatch.setattr(fonts, "_font_folders", lambda: [tmp_path])
    monkeypatch.setattr(fonts.ImageFont, "load_default", lambda size: None)
    monkeypatch.setattr(fonts.ImageFont, "truetype", lambda path, size: Path(path).name)
    fonts._east_asian.cache_clear()
    found = fonts.font_for(caption, 11)
    fonts._east_asian.cache_clear()
    assert found == chosen


def test_no_more_is_built_than_is_shown(tmp_path):
    group = painted_group(tmp_path, 3)
    built = []
    batches = (built.append(number) or group[1, 0, number] for number in range(len(group)))
    assert write_contact_sheet(batches, group.num_train_images, "", tmp_path / "sheet", most=2) == 2
    assert built == [0, 1] and "2 of the 9 samples" in (tmp_path / "sheet/index.html").read_text()
