"""Images held out for validation are never trained on."""

import json

import numpy as np
import pytest
from PIL import Image

from library.models.sd import SD
from library.training.datasets import RunData, build_datasets
from tests.golden_workshop import read_command_line
from tests.tiny_runs import picture_folder


def built(folder, *options: str, config: dict | None = None, seed: int = 3) -> RunData:
    """The data of a run on ten images (or what the config says); no model is loaded."""
    data = folder / "data"
    if not data.exists():
        picture_folder(data, 10, repeats=1)
    argv = ["--pretrained_model_name_or_path", "a/b", "--output_dir", str(folder), "--network_module", "networks.lora"]
    argv += ["--caption_extension", ".txt", "--resolution", "64", *options]
    if config is None:
        argv += ["--train_data_dir", str(data)]
    else:
        (folder / "config.json").write_text(json.dumps(config))
        argv += ["--dataset_config", str(folder / "config.json")]
    args, _ = read_command_line("sd", argv)
    return build_datasets(args, SD(), seed)


def names(group) -> list[str]:
    return sorted(record.path.name for dataset in group.datasets for record in dataset.records.values())


def subset(folder, **keys) -> dict:
    return {"image_dir": str(folder / "data" / "1_thing"), **keys}


@pytest.mark.parametrize("share", ["0.15", "0.25", "0.5"])
def test_a_share_of_the_images_is_held_out(tmp_path, share):
    data = built(tmp_path, "--validation_split", share)
    assert sorted(names(data.train) + names(data.validation)) == [f"p{number}.png" for number in range(10)]
    assert len(names(data.validation)) == int(10 * float(share))


def test_the_same_seed_holds_out_the_same_images(tmp_path):
    first, second, other = (built(tmp_path, "--validation_split", "0.5", seed=seed) for seed in (3, 3, 4))
    assert names(first.validation) == names(second.validation) != names(other.validation)


def test_validation_seed_decides_whatever_the_runs_seed_is(tmp_path):
    first, second = (built(tmp_path, "--validation_split", "0.5", "--validation_seed", "7", seed=seed) for seed in (3, 4))
    assert names(first.validation) == names(second.validation)


def test_one_subset_can_be_held_out_alone(tmp_path, capsys):
    picture_folder(tmp_path / "more", 3, repeats=1)
    more = {"image_dir": str(tmp_path / "more" / "1_thing"), "validation_split": 1}
    picture_folder(tmp_path / "data", 4, repeats=1)
    data = built(tmp_path, config={"datasets": [{"subsets": [subset(tmp_path), more]}]})
    assert (names(data.train), names(data.validation)) == (["p0.png", "p1.png", "p2.png", "p3.png"], ["p0.png", "p1.png", "p2.png"])
    assert "has no images" not in capsys.readouterr().err


def test_data_sets_on_the_same_folder_hold_out_the_same_images(tmp_path):
    picture_folder(tmp_path / "data", 10, repeats=1)
    datasets = [{"resolution": side, "subsets": [subset(tmp_path)]} for side in (64, 128)]
    data = built(tmp_path, "--cache_latents", config={"general": {"validation_split": 0.3}, "datasets": datasets})
    assert len(names(data.validation)) == 6 and not set(names(data.train)) & set(names(data.validation))


def test_an_image_that_another_data_set_trains_on_is_not_validated(tmp_path, capsys):
    picture_folder(tmp_path / "data", 10, repeats=1)
    datasets = [{"validation_split": 0.3, "validation_seed": seed, "subsets": [subset(tmp_path)]} for seed in (1, 2)]
    data = built(tmp_path, config={"datasets": datasets})
    assert not set(names(data.train)) & set(names(data.validation))
    assert "trained on in another subset or data set" in capsys.readouterr().err
    assert data.validation is None or data.validation.num_train_images == len(names(data.validation))


def test_held_out_images_are_seen_as_they_are(tmp_path):
    chance = ["--flip_aug", "--shuffle_caption", "--caption_dropout_rate", "0.5", "--caption_tag_dropout_rate", "0.5"]
    data = built(tmp_path, "--validation_split", "0.5", *chance)
    captions = [data.validation[(epoch, 0, 0)].captions for epoch in (1, 2, 3, 4)]
    assert all(caption.startswith("picture ") and caption.endswith(", red, green, blue") for (caption,) in captions)


@pytest.mark.parametrize("options", [["--random_crop"], ["--face_crop_aug_range", "0.5,1"]], ids=["anywhere", "face"])
def test_held_out_images_are_cut_from_the_middle_where_training_cuts_elsewhere(tmp_path, options):
    folder = picture_folder(tmp_path / "data", 4, repeats=1, size=(96, 80)) / "1_thing"
    if options[0] != "--random_crop":
        for number in range(4):  # centre and size of a face
            for ending in (".png", ".txt"):
                (folder / f"p{number}{ending}").rename(folder / f"p{number}_20_20_30_30{ending}")
    data = built(tmp_path, "--validation_split", "0.5", *options)
    batch = data.validation[(1, 0, 0)]
    whole = np.asarray(Image.open(batch.image_keys[0]).convert("RGB"))
    assert np.array_equal(batch.images[0].permute(1, 2, 0), whole[8:72, 16:80])


def test_a_share_that_is_too_small_is_told(tmp_path, capsys):
    assert built(tmp_path, "--validation_split", "0.01").validation is None
    assert "leaves no image to validate with" in capsys.readouterr().err
