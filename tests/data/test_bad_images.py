"""Images that turn out to be unreadable while training, and those that could not be used as the settings are."""

from pathlib import Path

import pytest
import torch

from library.data.images import BadImage
from library.data.loader import BatchLoader
from library.data.preflight import unusable_images
from library.data.subsets import Subset
from tests.data.drawn import settings
from tests.data.scenes import cut_off, paint, painted_group

LOADER = {"persistent_workers": False, "shuffle": True, "seed": 1}


def names(batch) -> list[str]:
    return [Path(key).name for key in batch.image_keys]


@pytest.mark.parametrize("strict_compat", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_cut_off_image_ends_the_run_with_its_name_and_no_traceback(tmp_path, workers, strict_compat):
    group = painted_group(tmp_path, 2, strict_compat=strict_compat)
    cut_off(tmp_path / "i1.png")
    with pytest.raises(ValueError, match=r"^cannot read the image .*i1\.png: .*truncated.*--skip_bad_images$"):
        list(BatchLoader(group, workers=workers, strict_compat=strict_compat, **LOADER).epoch(1))


def test_with_skip_bad_images_another_one_of_the_bucket_takes_its_place_with_one_warning(tmp_path, caplog):
    group = painted_group(tmp_path, 6, sizes=((64, 64), (128, 64)), skip_bad_images=True, resolution=(128, 64))
    cut_off(tmp_path / "i2.png")
    seen = [(names(batch), batch.bucket) for batch in BatchLoader(group, workers=0, strict_compat=False, **LOADER).epoch(1)]
    square = [name for found, bucket in seen if bucket == (64, 64) for name in found]
    assert sorted(square) == ["i0.png"] * 3 + ["i4.png"] * 6
    assert len([line for line in caplog.records if "i2.png" in line.getMessage()]) == 1


def test_the_replacement_does_not_depend_on_what_was_built_before(tmp_path):
    group = painted_group(tmp_path, 4, subset=Subset(image_dir=str(tmp_path), flip_aug=True, num_repeats=4), skip_bad_images=True)
    cut_off(tmp_path / "i0.png")
    first = [group[1, 0, number] for number in range(len(group))]
    again = [group[1, 0, number] for number in reversed(range(len(group)))][::-1]
    assert all(torch.equal(one.images, other.images) for one, other in zip(first, again, strict=True))


def test_a_bucket_of_which_nothing_can_be_read_ends_the_run(tmp_path):
    group = painted_group(tmp_path, 2, skip_bad_images=True)
    for name in ("i0.png", "i1.png"):
        cut_off(tmp_path / name)
    with pytest.raises(ValueError, match="no image of the bucket 64x64 can be read") as caught:
        group[1, 0, 0]
    assert not isinstance(caught.value, BadImage)


@pytest.mark.parametrize("strict_compat", [False, True])
def test_dropped_images_are_counted_nowhere(tmp_path, strict_compat):
    subset = Subset(image_dir=str(tmp_path), num_repeats=3, img_count=4, tag_frequency={"a picture": 4, "i0": 1, "i1": 1})
    group = painted_group(tmp_path, 4, sizes=((64, 64), (128, 64)), subset=subset, strict_compat=strict_compat, resolution=(128, 64))
    group.drop([str(tmp_path / "i0.png"), str(tmp_path / "i2.png"), "unknown.png"])
    (only,) = group.datasets
    assert (group.num_train_images, len(group), subset.img_count) == (6, 6, 2)
    assert [bucket.resolution for bucket in only.buckets] == [(128, 64)]
    assert subset.tag_frequency == {"a picture": 2, "i1": 1}


def test_dropping_everything_is_an_error(tmp_path):
    group = painted_group(tmp_path, 2)
    with pytest.raises(ValueError, match="no training image"):
        group.drop([str(tmp_path / "i0.png"), str(tmp_path / "i1.png")])


SIZES = {"good": (64, 64), "large": (80, 64), "narrow": (32, 64)}


def unusable(subset=None, masks=None, *, latents_cached=False, strict_compat=False, **values) -> dict[str, str]:
    return unusable_images(
        SIZES, masks or {}, subset or Subset(), settings(**values), latents_cached=latents_cached, strict_compat=strict_compat
    )


def test_without_buckets_images_of_another_size_are_found_before_training():
    assert list(unusable()) == ["large", "narrow"] and list(unusable(Subset(random_crop=True))) == ["narrow"]
    assert unusable(latents_cached=True) == unusable(enable_bucket=True) == {}


def test_an_image_smaller_than_a_bucket_step_is_found_before_training():
    problems = unusable(enable_bucket=True, bucket_no_upscale=True, bucket_reso_steps=48)
    assert list(problems) == ["narrow"] and "too small for a bucket" in problems["narrow"]


def test_a_mask_of_another_size_or_a_broken_one_is_found_before_training(tmp_path):
    masks = {name: paint(tmp_path / f"{name}.png", (64, 64)) for name in SIZES}
    masks["narrow"].write_bytes(b"")
    problems = unusable(masks=masks, latents_cached=True)
    assert list(problems) == ["narrow", "large"] and "no image" in problems["narrow"]
    assert "is 64x64: make both the same size" in problems["large"]
    assert list(unusable(masks=masks, latents_cached=True, strict_compat=True)) == ["narrow"]
