import os

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from library.training.trackers import RateNames, logged_config, start_trackers


def test_named_groups_and_the_generic_names_are_both_logged():
    names = RateNames(descriptions=["textencoder", "unet"], unet_only=False, with_d=False)
    assert names.record([1e-4, 2e-4], [{}, {}]) == {"lr/textencoder": 1e-4, "lr/unet": 2e-4, "lr/group1": 2e-4}


def test_a_unet_only_run_has_no_text_encoder_rate():
    names = RateNames(descriptions=["unet"], unet_only=True, with_d=False)
    assert names.record([2e-4], [{}]) == {"lr/unet": 2e-4, "lr/group0": 2e-4}


def test_a_dropped_text_encoder_group_leaves_its_name_to_the_unet():
    names = RateNames(descriptions=["unet"], unet_only=False, with_d=False)
    assert names.record([2e-4], [{}]) == {"lr/unet": 2e-4, "lr/textencoder": 2e-4}


def test_the_adapted_rate_is_logged_beside_the_given_one():
    names = RateNames(descriptions=["unet"], unet_only=True, with_d=True)
    record = names.record([1.0], [{"d": 3e-4, "lr": 0.5}])
    assert record["lr/d*lr/unet"] == (3e-4, 0.5)


@pytest.mark.parametrize("secret", ["wandb_api_key", "huggingface_token", "output_dir", "vae", "network_weights", "dataset_config"])
def test_a_stored_config_holds_no_secret_and_no_path(secret):
    assert secret not in logged_config({secret: "x", "seed": 1})


def test_a_stored_config_leaves_out_every_absolute_path():
    path = os.path.abspath("somewhere")
    assert logged_config({"new_option": path, "several": ["plain", path], "network_args": ["a=1"]}) == {"network_args": "['a=1']"}


def test_wandb_records_offline_in_the_logging_folder(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # it keeps the mode of an earlier test otherwise
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", "")  # set by what is tested; this puts it back
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    accelerator = Accelerator(log_with="wandb", project_dir=str(tmp_path / "logs" / "20260101"), cpu=True)
    start_trackers(accelerator, name=None, wandb_run_name="named", wandb_api_key=None, init_arguments=None, config={"seed": 1})
    run = wandb.run
    assert (run.name, run.project, run.config["seed"]) == ("named", "network_train", 1)
    accelerator.trackers[0].log({"loss/current": 0.5, "epoch": 1, "global_step": 1})
    accelerator.end_training()
    assert list((tmp_path / "logs" / "wandb").glob("offline-run-*/run-*.wandb"))
