"""Loading and then swallowing leaves torch's generator where the reference has it before it creates the network."""

import hashlib

import pytest
import torch

from library.models import swallow as module
from library.models.swallow import swallow
from tests.models.conftest import FAMILIES


def state_hash() -> str:
    return hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest()[:16]


# Recorded as `hash_before_network` of the runs a_plain, l_sd2_plain and r_plain, all with seed 42.
@pytest.mark.parametrize(("kind", "recorded"), [("sd1", "cf0c8c720d8e538f"), ("sd2", "cae779946374b705"), ("sdxl", "5feb54a46230d321")])
def test_the_random_state_before_the_network_is_the_recorded_one(tiny_models, kind, recorded):
    torch.manual_seed(42)
    swallow(FAMILIES[kind].load(str(tiny_models(kind))).swallowed_draws)
    assert state_hash() == recorded


@pytest.mark.parametrize("draws", [0, 1, 9, 10, 11, 25, 624])
def test_chunks_do_not_change_where_the_generator_ends(monkeypatch, draws):
    monkeypatch.setattr(module, "CHUNK", 10)
    torch.manual_seed(3)
    swallow(draws)
    ours = torch.rand(5)
    torch.manual_seed(3)
    torch.rand(draws)
    assert torch.equal(ours, torch.rand(5))


def test_a_single_file_costs_all_parts_of_sd_and_none_of_sdxl(layouts):
    sd1 = FAMILIES["sd1"].load(str(layouts("sd1").single_file))
    unet, vae, text = module.layer_draws(sd1.unet), module.layer_draws(sd1.vae), module.text_encoder_draws(sd1.text_encoders[0])
    assert sd1.swallowed_draws == unet + vae + text
    assert FAMILIES["sd1"].load(str(layouts("sd1").single_file), vae=str(layouts("sd1").folder)).swallowed_draws == unet + vae + text
    assert FAMILIES["sd1"].load(str(layouts("sd1").folder)).swallowed_draws == unet
    assert FAMILIES["sdxl"].load(str(layouts("sdxl").single_file)).swallowed_draws == 0
    assert FAMILIES["sdxl"].load(str(layouts("sdxl").folder), vae=str(layouts("sd1").single_file)).swallowed_draws == vae
