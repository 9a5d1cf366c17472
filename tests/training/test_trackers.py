import pytest

from library.training.trackers import RateNames, logged_config


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


@pytest.mark.parametrize("secret", ["wandb_api_key", "huggingface_token", "output_dir", "vae"])
def test_a_stored_config_holds_no_secret_and_no_path(secret):
    assert secret not in logged_config({secret: "x", "seed": 1})
