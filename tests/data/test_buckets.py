import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from library.data.buckets import BucketPlan, fit_inside_crop, plan_buckets, rounded
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


SIDES = st.integers(1, 4000)
LIMITS = st.tuples(st.sampled_from([8, 32, 64]), st.integers(64, 512), st.integers(64, 512), st.integers(64, 1024), st.integers(0, 512))


@settings(max_examples=60, deadline=None)
@given(LIMITS, SIDES, SIDES)
def test_any_image_covers_its_bucket_which_lies_within_the_limits(limits, width, height):
    step, *resolution, smallest, more = limits
    smallest = min(smallest, *resolution)
    asked = {"min_bucket_reso": smallest, "max_bucket_reso": max(resolution) + more, "bucket_reso_steps": step}
    buckets = plan_buckets(DatasetSettings([], tuple(resolution), enable_bucket=True, **asked))
    choice = buckets.choose((width, height))
    assert all(side % step == 0 and side > 0 for side in choice.bucket)
    assert all(long >= short for long, short in zip(choice.resized, choice.bucket, strict=True))
    assert choice.bucket[0] * choice.bucket[1] <= buckets.area
    assert any(long == short for long, short in zip(choice.resized, choice.bucket, strict=True)), "no more is cut off than need be"
    assert buckets.choose(choice.bucket).bucket == choice.bucket


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([8, 32, 64]), st.integers(64, 1024), SIDES, SIDES)
def test_without_upscaling_no_image_grows_and_less_than_a_step_is_cut_off(step, side, width, height):
    buckets = plan_buckets(
        DatasetSettings(
            [], (side, side), enable_bucket=True, bucket_no_upscale=True, bucket_reso_steps=step, min_bucket_reso=8, max_bucket_reso=2048
        )
    )
    try:
        choice = buckets.choose((width, height))
    except ValueError:
        assert min(width, height) < step or width * height > side * side
        return
    assert choice.resized[0] <= width and choice.resized[1] <= height
    assert all(0 <= long - short < step for long, short in zip(choice.resized, choice.bucket, strict=True))


def test_what_was_shrunk_too_far_is_told_apart_from_what_is_small():
    plan = BucketPlan((), 64 * 64, 64)
    with pytest.raises(ValueError, match=r"a\.png is 128x64, once shrunk to the area of --resolution too small .* raise that"):
        plan.choose((128, 64), "a.png")
    with pytest.raises(ValueError, match=r"b\.png is 30x20, too small .* use a larger image"):
        plan.choose((30, 20), "b.png")
