"""The modelspec.* keys; the recorded runs are compared in test_metadata.py."""

import base64
import time

import pytest
from PIL import Image

from library.saving.modelspec import ModelFacts, data_uri, modelspec_metadata, size_of

FACTS = ModelFacts(
    architecture="stable-diffusion-v1/lora", implementation="diffusers", prediction_type="epsilon", resolution=(512, 512)
)


def spec(**options):
    return modelspec_metadata(options, FACTS, saved_at=0.0, commit="abc")


def test_the_title_falls_back_on_the_time():
    assert spec()["modelspec.title"] == "LoRA@0.0"


def test_the_date_is_local_and_in_whole_seconds():
    assert spec()["modelspec.date"] == time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(0))


@pytest.mark.parametrize("resolution", [(768, 512), "768,512", [768, 512], "768, 512"])
def test_a_resolution_in_any_form_is_width_by_height(resolution):
    assert spec(resolution=resolution)["modelspec.resolution"] == "768x512"


def test_one_number_is_a_square():
    assert size_of("512") == size_of(512) == (512, 512)


def test_three_numbers_are_refused():
    with pytest.raises(ValueError, match="--resolution"):
        size_of("1,2,3")


@pytest.mark.parametrize("low, high, told", [(0, 500, "0,500"), (200, None, "200,1000"), (None, 500, "0,500")])
def test_a_half_given_time_step_range_is_filled_in(low, high, told):
    assert spec(min_timestep=low, max_timestep=high)["modelspec.timestep_range"] == told


def test_keys_without_an_option_of_their_own_are_copied():
    assert spec(metadata_hash_note="x", metadata_trigger_phrase="mikan", metadata_author=None) == spec() | {
        "modelspec.hash_note": "x",
        "modelspec.trigger_phrase": "mikan",
    }


def test_the_implementation_version_can_be_given():
    assert spec(metadata_implementation_version="mine/1")["modelspec.implementation_version"] == "mine/1"


def test_a_thumbnail_is_put_into_the_file(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "t.png")
    kind, _, content = spec(metadata_thumbnail=str(tmp_path / "t.png"))["modelspec.thumbnail"].partition(";base64,")
    assert kind == "data:image/png" and base64.b64decode(content) == (tmp_path / "t.png").read_bytes()


def test_a_missing_thumbnail_is_warned_of_and_left_out(caplog):
    assert "modelspec.thumbnail" not in spec(metadata_thumbnail="absent.png")
    assert "absent.png" in caplog.text


def test_a_ready_data_uri_is_kept():
    assert data_uri("data:image/png;base64,AA==") == "data:image/png;base64,AA=="
