import random
from pathlib import Path

import pytest

from library.data.framing import (
    Framing,
    centered,
    face_in_name,
    frame_in_bucket,
    frame_unscaled,
    reference_crop_box,
    reference_crop_top_left,
)
from library.data.subsets import ImageRecord, Subset


def bucketed(resized, bucket) -> ImageRecord:
    return ImageRecord("a.png", Path("a.png"), "", Subset(), bucket=bucket, resized=resized)


class Highest:
    """A source of chance that always gives the upper bound, and notes what was asked."""

    def __init__(self):
        self.asked = []

    def randint(self, low, high):
        self.asked.append((low, high))
        return high

    def uniform(self, low, high):
        self.asked.append((low, high))
        return high


def test_without_random_crop_the_middle_is_taken():
    framing = frame_in_bucket((1000, 1500), bucketed((832, 1249), (832, 1216)), False, Highest())
    assert framing == Framing((1000, 1500), (832, 1249), 0, 16, (832, 1216))


def test_random_crop_draws_width_before_height_and_only_where_something_is_cut():
    rng = Highest()
    framing = frame_in_bucket((90, 80), bucketed((70, 69), (64, 64)), True, rng)
    assert (rng.asked, framing.left, framing.top) == ([(0, 6), (0, 5)], 6, 5)
    rng = Highest()
    frame_in_bucket((90, 80), bucketed((64, 69), (64, 64)), True, rng)
    assert rng.asked == [(0, 5)]


def test_crop_coordinates_are_where_the_cut_lies_mirrored_with_the_image():
    framing = Framing((100, 80), (80, 64), left=3, top=0, target=(64, 64))
    assert [framing.crop_top_left(flipped) for flipped in (False, True)] == [(0, 3), (0, 13)]


@pytest.mark.parametrize(
    "bucket, size, plain, flipped",
    [
        ((832, 1216), (1000, 1500), (0, 10), (0, 11)),
        ((1344, 768), (1920, 1080), (6, 0), (6, 0)),
        ((832, 1216), (500, 700), (25, 0), (25, 0)),
    ],
)
def test_reference_crop_coordinates_are_those_of_sd_scripts(bucket, size, plain, flipped):
    box = reference_crop_box(centered(size, bucket, bucket), bucketed=True)
    assert reference_crop_top_left(box, bucket[0], False) == plain
    assert reference_crop_top_left(box, bucket[0], True) == flipped


def test_without_buckets_the_reference_says_nothing_was_cropped():
    assert reference_crop_top_left(reference_crop_box(centered((64, 64), (64, 64), (64, 64)), False), 64, True) == (0, 64)


def test_without_buckets_height_is_drawn_before_width():
    rng = Highest()
    framing = frame_unscaled((70, 80), (64, 64), Subset(random_crop=True), Path("a.png"), rng)
    assert (rng.asked, framing.left, framing.top) == ([(0, 16), (0, 6)], 6, 16)


@pytest.mark.parametrize("size, random_crop", [((70, 64), False), ((63, 64), True)])
def test_without_buckets_another_size_is_refused_by_name(size, random_crop):
    with pytest.raises(ValueError, match="a.png .* --enable_bucket"):
        frame_unscaled(size, (64, 64), Subset(random_crop=random_crop), Path("a.png"), random)


def test_a_face_is_read_from_the_end_of_the_name():
    assert face_in_name(Path("my_photo_512_300_128_140.png")) == (512, 300, 128, 140)
    assert face_in_name(Path("512_300_128_140.png")) is None
    with pytest.raises(ValueError, match="--face_crop_aug_range"):
        face_in_name(Path("a_b_c_d_e.png"))


def test_a_face_fills_the_share_that_was_asked_for_and_lies_in_the_middle():
    subset = Subset(face_crop_aug_range=(2.0, 2.0))
    framing = frame_unscaled((400, 400), (64, 64), subset, Path("p_200_100_80_60.png"), Highest())
    assert framing == Framing((400, 400), (160, 160), 80 - 32, 40 - 32, (64, 64))


def test_a_face_is_moved_about_a_little_when_the_range_is_one():
    rng = Highest()
    framing = frame_unscaled((400, 400), (64, 64), Subset(face_crop_aug_range=(2.0, 4.0)), Path("p_200_200_81_60.png"), rng)
    scale_range, *moves = rng.asked
    assert scale_range == pytest.approx((64 / (81 * 4), 64 / (81 * 2)))
    assert moves == [(-5, 4), (-5, 4)]
    assert (framing.left, framing.top) == (79 - 32 + 4, 79 - 32 + 4)


def test_with_random_crop_a_face_may_lie_anywhere_but_the_cut_stays_inside():
    rng = Highest()
    subset = Subset(face_crop_aug_range=(1.0, 1.0), random_crop=True)
    framing = frame_unscaled((128, 128), (64, 64), subset, Path("p_64_64_32_32.png"), rng)
    assert (framing.left, framing.top) == (64, 64) and rng.asked == [(0, 64)] * 4
