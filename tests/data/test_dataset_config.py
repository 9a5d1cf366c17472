"""Data set files: what is taken, which value wins, and what is said about mistakes."""

import json
import logging
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from library.data.dataset_config import folder_config, metadata_config, plan_datasets, read_dataset_config
from library.data.dataset_schema import KEYS


def plan(config, masked_loss=False, **defaults):
    return plan_datasets(config, {"resolution": (512, 512), **defaults}, masked_loss=masked_loss, source="ds.toml")


def one(subset=None, dataset=None, general=None):
    return {"general": general or {}, "datasets": [{**(dataset or {}), "subsets": [{"image_dir": "a", **(subset or {})}]}]}


def mistakes(config, masked_loss=False, **defaults):
    with pytest.raises(ValueError) as error:
        plan(config, masked_loss, **defaults)
    return str(error.value)


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({"subset": {"num_repeats": 2}, "dataset": {"num_repeats": 3}, "general": {"num_repeats": 4}}, 2),
        ({"dataset": {"num_repeats": 3}, "general": {"num_repeats": 4}}, 3),
        ({"general": {"num_repeats": 4}}, 4),
        ({}, 5),
    ],
)
def test_the_innermost_value_wins(tables, expected):
    assert plan(one(**tables), num_repeats=5)[0].subsets[0].num_repeats == expected


def test_false_and_zero_in_the_file_count_as_given():
    subset = plan(one({"flip_aug": False, "keep_tokens": 0}), flip_aug=True, keep_tokens=3)[0].subsets[0]
    assert (subset.flip_aug, subset.keep_tokens) == (False, 0)


def test_null_in_json_counts_as_not_given():
    assert plan(one({"caption_prefix": None}), caption_prefix="p")[0].subsets[0].caption_prefix == "p"


@pytest.mark.parametrize("given_size", [[512, 768], "512,768"])
def test_resolution_is_width_and_height(given_size):
    assert plan(one(general={"resolution": given_size}))[0].resolution == (512, 768)


def test_one_number_is_a_square():
    assert plan(one(dataset={"resolution": 768}))[0].resolution == (768, 768)


def test_whole_numbers_are_taken_where_fractions_are_meant():
    settings = plan(one({"face_crop_aug_range": [1, 2], "validation_split": 0}, {"network_multiplier": 2}))[0]
    found = settings.network_multiplier, settings.subsets[0].face_crop_aug_range, settings.subsets[0].validation_split
    assert found == (2.0, (1.0, 2.0), 0.0)


def test_alpha_mask_of_the_command_line_reaches_every_subset_of_images():
    assert plan(one(), alpha_mask=True)[0].subsets[0].alpha_mask


def test_alpha_mask_of_the_command_line_does_not_reach_subsets_with_masks():
    settings = plan(one({"conditioning_data_dir": "m"}, general={"class_tokens": "x"}), masked_loss=True, alpha_mask=True)
    assert (settings[0].subsets[0].alpha_mask, settings[0].subsets[0].class_tokens) == (False, None)


def test_a_caption_extension_gets_its_dot():
    assert plan(one(), caption_extension="txt")[0].subsets[0].caption_extension == ".txt"


def test_folders_and_metadata_files_may_be_mixed_across_data_sets_only():
    config = {"datasets": [{"subsets": [{"image_dir": "a"}]}, {"subsets": [{"metadata_file": "b.json"}]}]}
    assert len(plan(config)) == 2
    mixed = {"datasets": [{"subsets": [{"image_dir": "a"}, {"metadata_file": "b.json"}]}]}
    assert "subsets of different kinds in one data set" in mistakes(mixed)


def test_masks_need_masked_loss():
    assert "--masked_loss" in mistakes(one({"conditioning_data_dir": "m"}))


def test_a_share_outside_zero_to_one_is_told_and_holds_out_nothing(caplog):
    assert plan(one(general={"validation_split": 25.0}))[0].validation_split == 0.0
    assert "validation_split 25.0" in caplog.text


def test_all_mistakes_are_told_at_once_with_their_tables():
    config = {
        "general": {"shufle_caption": True},
        "datasets": [
            {"batch_size": "2", "subsets": [{"image_dir": "a"}, {"image_dir": "b", "keep_tokens": 1.5}]},
            {"subsets": []},
        ],
    }
    told = mistakes(config)
    assert "ds.toml: 4 mistakes" in told
    assert "general: unknown key 'shufle_caption' (given true): did you mean 'shuffle_caption'?" in told
    assert 'datasets[0]: batch_size = "2" is not allowed: it must be a whole number of at least 1' in told
    assert "datasets[0].subsets[1]: keep_tokens = 1.5 is not allowed: it must be a whole number" in told
    assert "datasets[1].subsets is missing or empty" in told


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        (one({"batch_size": 2}), "it belongs in [general] or [[datasets]]"),
        (one(general={"prior_loss_weight": 1.0}), "on the command line, --prior_loss_weight"),
        (one(general={"train_batch_size": 2}), "it is called batch_size"),
        ({"datasets": [{"subsets": [{"metadata_file": "m", "class_tokens": "x"}]}]}, "only for subsets of the kind dreambooth"),
        ({"datasets": [{"subsets": [{"num_repeats": 2}]}]}, "datasets[0].subsets[0]: image_dir is missing"),
        ({"resolution": 512, "datasets": [{"subsets": [{"image_dir": "a"}]}]}, "'resolution' at the top of the file"),
        ({"datasets": [3]}, "datasets[0] must be a table"),
        ({}, "datasets is missing or empty"),
    ],
)
def test_a_misplaced_key_is_told_where_it_belongs(config, hint):
    assert hint in mistakes(config)


def test_a_missing_resolution_is_told_with_the_option():
    assert "--resolution" in mistakes(one(), resolution=None)


def test_a_bad_value_of_the_command_line_is_told_by_its_option():
    assert '--train_batch_size "x"' in mistakes(one(), batch_size="x")


VALUES = {
    "resolution": st.integers(64, 2048),
    "batch_size": st.integers(1, 64),
    "bucket_no_upscale": st.booleans(),
    "num_repeats": st.integers(1, 99),
    "shuffle_caption": st.booleans(),
    "caption_separator": st.sampled_from([",", ";", " "]),
    "caption_prefix": st.text(max_size=5),
    "caption_dropout_rate": st.floats(0, 1),
    "token_warmup_step": st.integers(0, 50) | st.floats(0, 1),
    "resize_interpolation": st.sampled_from(["area", "lanczos", "cubic"]),
}


@given(st.data())
def test_any_valid_file_gives_back_its_innermost_values(data):
    chosen = {letter: data.draw(st.fixed_dictionaries({}, optional={
        name: values for name, values in VALUES.items() if letter in KEYS[name].tables
    })) for letter in "GDS"}
    settings = plan(one(chosen["S"], chosen["D"], chosen["G"]))[0]
    for name in chosen["G"] | chosen["D"] | chosen["S"]:
        wanted = next(chosen[letter][name] for letter in "SDG" if name in chosen[letter])
        found = getattr(settings.subsets[0] if "S" in KEYS[name].tables else settings, name)
        assert found == ((wanted, wanted) if name == "resolution" else wanted)


@given(st.text(string.ascii_lowercase + "_", min_size=1).filter(lambda name: name not in KEYS), st.sampled_from("GDS"))
def test_any_unknown_key_is_named_with_its_table(name, letter):
    if name in ("datasets", "subsets"):
        return
    table = {"G": "general", "D": "datasets[0]", "S": "datasets[0].subsets[0]"}[letter]
    argument = {"G": "general", "D": "dataset", "S": "subset"}[letter]
    assert f"{table}: unknown key {name!r}" in mistakes(one(**{argument: {name: 1}}))


def test_toml_and_json_read_the_same(tmp_path):
    config = one({"num_repeats": 3}, {"resolution": [512, 768]})
    (tmp_path / "a.json").write_text(json.dumps(config), encoding="utf-8")
    toml = '[general]\n[[datasets]]\nresolution = [512, 768]\n[[datasets.subsets]]\nimage_dir = "a"\nnum_repeats = 3\n'
    (tmp_path / "a.TOML").write_text("\ufeff" + toml, encoding="utf-8")
    assert read_dataset_config(tmp_path / "a.TOML") == read_dataset_config(tmp_path / "a.json") == config


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.yaml", "", "must end in .toml or .json"),
        ("a.toml", None, "there is no such file"),
        ("a.toml", "x = = 1", "not valid TOML"),
        ("a.toml", 'x = "C:\\data\\new"', "write Windows paths with /"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", "[]", "got a list"),
    ],
)
def test_an_unusable_file_is_named(tmp_path, name, content, told):
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=name) as error:
        read_dataset_config(tmp_path / name)
    assert told in str(error.value)


def test_class_folders_become_one_data_set_in_order_of_names(tmp_path):
    for name in ("train/2_b c_d", "train/10_", "train/3", "train/notes", "train/0_none", "reg/1_thing"):
        (tmp_path / name).mkdir(parents=True)
    subsets = folder_config(str(tmp_path / "train"), str(tmp_path / "reg"))["datasets"][0]["subsets"]
    found = [(subset["num_repeats"], subset["class_tokens"], subset["is_reg"]) for subset in subsets]
    assert found == [(10, "", False), (2, "b c_d", False), (3, "", False), (1, "thing", True)]


def test_class_folders_without_a_number_are_told(tmp_path, caplog):
    for name in ("1_a", "notes", "0_none"):
        (tmp_path / name).mkdir()
    folder_config(str(tmp_path), "")
    assert "0_none, notes" in caplog.text


def test_images_outside_a_class_folder_are_told(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match=r"holds 1 images itself: move them into .*10_name"):
        folder_config(str(tmp_path), None)


def test_a_missing_training_folder_is_an_error_and_a_missing_regularisation_folder_a_warning(tmp_path, caplog):
    (tmp_path / "1_a").mkdir()
    with pytest.raises(ValueError, match=r"--train_data_dir .*nowhere: there is no such folder"):
        folder_config(str(tmp_path / "nowhere"), "")
    with caplog.at_level(logging.WARNING):
        folder_config(str(tmp_path), str(tmp_path / "absent"))
    assert "--reg_data_dir" in caplog.text


def test_in_json_becomes_one_metadata_subset():
    assert plan(metadata_config("", "m.json"))[0].subsets[0].metadata_file == "m.json"
