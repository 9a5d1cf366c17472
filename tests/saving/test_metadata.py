"""Metadata of a saved network against what sd-scripts wrote for the same run."""

import json
import time
from types import SimpleNamespace

import pytest

from library.data.subsets import DatasetSettings, Subset
from library.saving import metadata as md
from library.saving.modelspec import modelspec_metadata
from tests.saving import recorded

SAVED_AT = 1_800_000_000.0


def written(run) -> dict[str, str]:
    """All metadata as our own functions put it together for a recorded run."""
    options, facts = run.options, run.facts
    network_args = run.metadata.get("ss_network_args")
    run_facts = md.RunFacts(
        session_id=1,
        started_at=SAVED_AT,
        seed=options["seed"],
        base_model_version=run.metadata["ss_base_model_version"],
        num_train_images=sum(dataset.num_train_images for dataset in recorded.datasets(run)),
        num_reg_images=sum(dataset.num_reg_images for dataset in recorded.datasets(run)),
        num_validation_images=facts["num_validation_images"],
        num_batches_per_epoch=facts["num_batches_per_epoch"],
        num_epochs=facts["num_epochs"],
        max_train_steps=facts["total"],
        optimizer=facts["optimizer"],
        learning_rate=facts["learning_rate"],
        lr_scheduler=facts["lr_scheduler"],
        network_args=json.loads(network_args) if network_args else None,
    )
    config = options["dataset_config"] is not None
    full = md.option_metadata(options) | md.run_metadata(run_facts)
    full |= md.model_metadata("sd_model", "models/model_sd1", ("IsADirectory", "IsADirectory"))
    full |= md.dataset_metadata(recorded.datasets(run), from_config=config, options=options)
    spec = modelspec_metadata(options, recorded.model_facts(run), saved_at=SAVED_AT, commit=None)
    return md.save_metadata(
        full, spec, global_step=facts["step"], epoch=facts["epoch"], finished_at=SAVED_AT, minimal=options["no_metadata"]
    )


@pytest.mark.parametrize("name", recorded.NAMES)
def test_every_key_and_value_is_what_sd_scripts_wrote(name):
    run = recorded.run(name)
    found = {key: value for key, value in written(run).items() if key not in recorded.NOT_RECORDED}
    assert found == {key: value for key, value in run.metadata.items() if key not in recorded.NOT_RECORDED}


def test_keys_without_a_recorded_value_are_there_too():
    found = written(recorded.run("a_plain"))
    assert recorded.NOT_RECORDED - set(found) == {"sshs_legacy_hash", "sshs_model_hash"}


def test_all_values_are_text():
    assert {type(value) for value in written(recorded.run("n_toml_subsets")).values()} == {str}


def test_no_metadata_leaves_what_a_file_needs_to_be_used():
    found = md.minimal_metadata(written(recorded.run("c_conv")))
    assert set(found) == set(md.MINIMAL_KEYS)


def test_relative_step_learning_rates_are_written_as_none():
    run = recorded.run("h_adafactor")
    run.options["unet_lr"] = 1e-3
    assert written(run)["ss_unet_lr"] == "None"


def test_a_folder_name_that_comes_twice_is_numbered():
    subsets = [Subset(image_dir=f"{parent}/10_cat", num_repeats=10, img_count=2) for parent in "abc"]
    settings = DatasetSettings(subsets=subsets, resolution=(512, 512))
    dataset = SimpleNamespace(settings=settings, subsets=subsets, bucket_info=None, num_train_images=60, num_reg_images=0)
    found = md.dataset_metadata([dataset], from_config=True, options={})
    assert list(json.loads(found["ss_dataset_dirs"])) == ["10_cat", "10_cat (2)", "10_cat (3)"]


def test_tags_of_a_folder_used_by_two_data_sets_are_counted_once():
    def dataset(count):
        subsets = [Subset(image_dir="a/10_cat", tag_frequency={"cat": count})]
        settings = DatasetSettings(subsets=subsets, resolution=(512, 512))
        return SimpleNamespace(settings=settings, subsets=subsets, bucket_info=None, num_train_images=1, num_reg_images=0)

    found = md.dataset_metadata([dataset(3), dataset(4)], from_config=True, options={})
    assert json.loads(found["ss_tag_frequency"]) == {"10_cat": {"cat": 3}}


def test_total_batch_size_counts_processes_and_accumulation():
    run = recorded.run("b_accum2_linear")
    found = md.dataset_metadata(recorded.datasets(run), from_config=False, options=run.options, processes=3)
    assert found["ss_total_batch_size"] == str(run.datasets[0]["batch_size"] * 3 * 2)


def test_bucket_limits_are_written_in_whole_steps():
    settings = DatasetSettings(subsets=[], resolution=(512, 512), enable_bucket=True, min_bucket_reso=100, max_bucket_reso=1000)
    dataset = SimpleNamespace(settings=settings, subsets=[], bucket_info=None, num_train_images=1, num_reg_images=0)
    (described,) = json.loads(md.dataset_metadata([dataset], from_config=True, options={})["ss_datasets"])
    assert (described["min_bucket_reso"], described["max_bucket_reso"]) == (64, 1024)


def test_a_model_named_by_hub_id_has_a_name_and_no_hash():
    assert md.model_metadata("vae", "someone/vae", None) == {"ss_vae_name": "someone/vae"}


def test_a_model_file_is_named_without_its_folder():
    found = md.model_metadata("vae", "models/my.vae.pt", ("e3b0c442", "ab" * 32))
    assert found == {"ss_vae_hash": "e3b0c442", "ss_new_vae_hash": "ab" * 32, "ss_vae_name": "my.vae.pt"}


def test_the_commit_is_asked_for_quickly_and_once():
    md.program_commit()
    start = time.perf_counter()
    md.program_commit()
    assert time.perf_counter() - start < 0.01
