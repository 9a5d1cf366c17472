"""Registering images: order, counts, regularisation, validation, what is left out and what is refused."""

import random
from pathlib import Path

import pytest

from library.data.registration import register_images, split
from library.data.subsets import Subset
from tests.data.drawn import draw, settings


def register(*subsets, validation=False, strict_compat=False, seed=None, skip_bad_images=False, **values):
    wanted = {"validation": validation, "strict_compat": strict_compat, "validation_seed_default": seed}
    return register_images(settings(*subsets, **values), skip_bad_images=skip_bad_images, **wanted)


def names(registered):
    return [Path(key).name for key in registered.records]


def test_images_are_registered_in_order_of_subsets_and_names(tmp_path):
    draw(tmp_path / "b", "2.png", "1.jpg", size=(10, 20), caption="cat, Dog")
    draw(tmp_path / "a", "3.png", caption="cat")
    first, second = (Subset(image_dir=str(tmp_path / name), caption_extension=".txt", num_repeats=2) for name in "ba")
    registered = register(first, second)
    record = next(iter(registered.records.values()))
    assert names(registered) == ["1.jpg", "2.png", "3.png"]
    assert (record.key, record.size, record.caption, record.num_repeats) == (str(tmp_path / "b" / "1.jpg"), (10, 20), "cat, Dog", 2)
    assert (registered.num_train_images, first.img_count, first.tag_frequency) == (6, 2, {"cat": 2, "dog": 2})


@pytest.mark.parametrize(
    ("train", "repeats", "reg", "reg_repeats", "expected"),
    [(3, 2, 4, 1, [2, 2, 1, 1]), (3, 2, 10, 1, [1] * 6), (3, 2, 4, 3, [3, 3]), (5, 3, 2, 1, [8, 7])],
)
def test_regularisation_images_are_balanced_as_recorded(tmp_path, train, repeats, reg, reg_repeats, expected):
    draw(tmp_path / "t", *(f"t{number}.png" for number in range(train)))
    draw(tmp_path / "r", *(f"r{number:02}.png" for number in range(reg)))
    registered = register(
        Subset(image_dir=str(tmp_path / "r"), is_reg=True, num_repeats=reg_repeats),
        Subset(image_dir=str(tmp_path / "t"), num_repeats=repeats),
    )
    assert [record.num_repeats for record in registered.records.values() if record.is_reg] == expected
    assert (registered.num_train_images, registered.num_reg_images) == (train * repeats, reg * reg_repeats)


def test_a_subset_that_cannot_be_used_is_left_out_with_a_warning(tmp_path, caplog):
    draw(tmp_path / "a", "1.png")
    (tmp_path / "empty").mkdir()
    folder = str(tmp_path / "a")
    registered = register(
        Subset(image_dir=folder),
        Subset(image_dir=folder + "/"),
        Subset(image_dir=str(tmp_path / "empty")),
        Subset(image_dir=str(tmp_path / "absent")),
        Subset(image_dir=str(tmp_path / "b"), num_repeats=0),
    )
    assert len(registered.subsets) == 1 and registered.num_train_images == 1
    assert all(text in caplog.text for text in ("already has it", "empty has no images", "absent: left out", "num_repeats is 0"))


def test_all_unreadable_images_are_named_with_the_ways_out(tmp_path):
    draw(tmp_path, "good.png")
    (tmp_path / "bad1.png").touch()
    (tmp_path / "bad2.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"(?s)2 images cannot be used.*bad1\.png.*bad2\.jpg.*--skip_bad_images"):
        register(Subset(image_dir=str(tmp_path)))


def test_unreadable_images_can_be_left_out(tmp_path, caplog):
    draw(tmp_path, "good.png")
    (tmp_path / "bad.png").touch()
    subset = Subset(image_dir=str(tmp_path))
    registered = register(subset, skip_bad_images=True)
    assert (names(registered), registered.num_train_images, subset.img_count) == (["good.png"], 1, 1)
    assert "bad.png" in registered.problems[0] and "bad.png" in caplog.text


def test_images_not_larger_than_the_given_size_are_left_out(tmp_path):
    draw(tmp_path, "small.png", size=(8, 8))
    draw(tmp_path, "large.png", size=(8, 9))
    assert names(register(Subset(image_dir=str(tmp_path)), skip_image_resolution=(8, 8))) == ["large.png"]


def test_the_recorded_split_comes_out_the_same():
    assert split("0123456789", 0.2, 7, validation=False) == list("83147096")


@pytest.mark.parametrize("share", [0.0, 0.15, 0.17, 0.25, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 10])
def test_every_image_is_either_trained_or_held_out(share, count):
    paths = [str(number) for number in range(count)]
    parts = split(paths, share, 3, validation=False) + split(paths, share, 3, validation=True)
    assert sorted(parts) == sorted(paths)


def test_in_strict_mode_one_image_can_be_on_both_sides_as_recorded():
    trained, held_out = (split("0123456789", 0.17, 7, validation=validation, strict_compat=True) for validation in (False, True))
    assert (len(trained), len(held_out), trained[-1]) == (9, 2, held_out[0])


def test_a_split_leaves_the_global_random_numbers_alone(tmp_path):
    draw(tmp_path, *(f"{number}.png" for number in range(6)))
    before = random.getstate()
    trained = register(Subset(image_dir=str(tmp_path)), validation_split=0.5)
    held_out = register(Subset(image_dir=str(tmp_path)), validation_split=0.5, validation=True)
    assert random.getstate() == before and not trained.records.keys() & held_out.records.keys()


def test_in_strict_mode_an_unseeded_split_uses_the_global_random_numbers(tmp_path):
    draw(tmp_path, *(f"{number}.png" for number in range(6)))
    random.seed(5)
    trained = register(Subset(image_dir=str(tmp_path)), validation_split=0.5, strict_compat=True, seed=1)
    random.seed(5)
    expected = [f"{number}.png" for number in range(6)]
    random.shuffle(expected)
    assert names(trained) == expected[:3]


def test_the_split_follows_the_default_seed_where_none_is_given(tmp_path):
    draw(tmp_path, *(f"{number}.png" for number in range(9)))
    parts = [names(register(Subset(image_dir=str(tmp_path)), validation_split=0.4, seed=seed)) for seed in (1, 1, 2)]
    assert parts[0] == parts[1] != parts[2]


def test_a_subset_may_have_a_split_of_its_own(tmp_path):
    draw(tmp_path / "a", "1.png", "2.png")
    draw(tmp_path / "b", "3.png", "4.png")
    subsets = [Subset(image_dir=str(tmp_path / "a"), validation_split=1.0), Subset(image_dir=str(tmp_path / "b"))]
    assert sorted(names(register(*subsets, validation=True))) == ["1.png", "2.png"]


def test_regularisation_images_are_never_held_out(tmp_path):
    draw(tmp_path / "t", "1.png", "2.png")
    draw(tmp_path / "r", "3.png")
    subsets = [Subset(image_dir=str(tmp_path / "t")), Subset(image_dir=str(tmp_path / "r"), is_reg=True)]
    trained, held_out = (register(*subsets, validation_split=0.5, validation=validation) for validation in (False, True))
    assert ("3.png" in names(trained), "3.png" in names(held_out)) == (True, False)


def test_validation_images_come_once_and_leave_the_training_subset_as_it_is(tmp_path):
    draw(tmp_path, "1.png", "2.png", "3.png", "4.png")
    subset = Subset(image_dir=str(tmp_path), num_repeats=5)
    register(subset, validation_split=0.25)
    held_out = register(subset, validation_split=0.25, validation=True)
    assert [record.num_repeats for record in held_out.records.values()] == [1]
    assert (subset.num_repeats, subset.img_count) == (5, 3)


def test_masks_are_found_for_each_image(tmp_path):
    draw(tmp_path / "i", "a.png", "b.png")
    draw(tmp_path / "m", "a.jpg", "b.jpg")
    subset = Subset(image_dir=str(tmp_path / "i"), conditioning_data_dir=str(tmp_path / "m"))
    assert [record.conditioning_path.name for record in register(subset).records.values()] == ["a.jpg", "b.jpg"]


def test_an_image_without_a_mask_stops_the_run_or_is_left_out(tmp_path):
    draw(tmp_path / "i", "a.png", "b.png")
    draw(tmp_path / "m", "a.jpg", "c.jpg")
    subset = Subset(image_dir=str(tmp_path / "i"), conditioning_data_dir=str(tmp_path / "m"))
    with pytest.raises(ValueError, match=r"(?s)b\.png: it has no mask.*c\.jpg: a mask without"):
        register(subset)
    assert names(register(subset, skip_bad_images=True)) == ["a.png"]


def test_masks_and_random_crop_cannot_be_combined(tmp_path):
    draw(tmp_path / "i", "a.png")
    with pytest.raises(ValueError, match="random_crop cannot be used with conditioning_data_dir"):
        register(Subset(image_dir=str(tmp_path / "i"), conditioning_data_dir=str(tmp_path / "i"), random_crop=True))


def test_a_held_out_part_with_masks_is_real_except_in_strict_mode(tmp_path):
    draw(tmp_path / "i", "a.png", "b.png")
    subset = Subset(image_dir=str(tmp_path / "i"), conditioning_data_dir=str(tmp_path / "i"), num_repeats=3)
    options = {"validation_split": 0.5, "validation_seed": 1}
    trained = names(register(subset, **options))
    assert not set(trained) & set(names(register(subset, **options, validation=True)))
    assert names(register(subset, **options, validation=True, strict_compat=True)) == trained
