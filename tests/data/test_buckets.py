import json
from pathlib import Path

import pytest

from library.data.buckets import fit_inside_crop, plan_buckets, rounded
from library.data.subsets import DatasetSettings

RECORDED = json.loads((Path(__file__).parents[1] / "golden" / "buckets.json").read_text())["settings"]
FIELDS = ("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale")


def plan(recorded: dict):
    values = {name: recorded[name] for name in FIELDS}
    return plan_buckets(DatasetSettings([], tuple(recorded["resolution"]), enable_bucket=True, **values))


@pytest.mark.parametrize("recorded", [row for row in RECORDED if "rows" in row])
def test_bucket_resized_size_and_crop_box_are_those_of_sd_scripts(recorded):
    buckets = plan(recorded)
    if recorded.get("predefined"):
        assert [list(size) for size in buckets.sizes] == recorded["predefined"]
    for width, height, *bucket_and_resized, ar_error, crop in recorded["rows"]:
        if 0 in bucket_and_resized[:2]:
            continue  # smaller than a bucket step: refused, see below
        choice = buckets.choose((width, height))
        assert [*choice.bucket, *choice.resized] == bucket_and_resized
        assert choice.ar_error == pytest.approx(ar_error, abs=1e-6)
        assert list(fit_inside_crop(choice.bucket, (width, height))) == pytest.approx(crop, abs=1e-9)


@pytest.mark.parametrize("recorded", [row for row in RECORDED if "error" in row])
def test_a_resolution_outside_the_limits_is_refused(recorded):
    with pytest.raises(ValueError, match="bucket_reso .* --resolution 512x512"):
        plan(recorded)


@pytest.mark.parametrize("size", [(500, 40), (40, 500), (20, 4000), (4000, 20), (1, 1)])
def test_an_image_below_one_step_is_refused_by_name_when_nothing_is_upscaled(size):
    buckets = plan_buckets(DatasetSettings([], (512, 512), enable_bucket=True, bucket_no_upscale=True))
    with pytest.raises(ValueError, match=r"thin\.png .* --bucket_no_upscale"):
        buckets.choose(size, "thin.png")


def test_without_buckets_every_image_goes_to_the_resolution():
    choice = plan_buckets(DatasetSettings([], (512, 512), enable_bucket=False)).choose((1000, 500))
    assert (choice.bucket, choice.resized) == ((512, 512), (1024, 512))


def test_halves_are_rounded_up():
    assert [rounded(length) for length in (0.5, 1.5, 2.4)] == [1, 2, 2]
