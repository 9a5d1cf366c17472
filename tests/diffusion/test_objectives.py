"""Mixing noise in and naming the target, against diffusers."""

import pytest
import torch
from diffusers import DDPMScheduler

from library.diffusion.objectives import DDPM

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TIMESTEPS = torch.tensor([0, 499, 999])


def latents_and_noise(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 4, 2, 2, generator=generator)
    return latents.to(dtype), noise.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noisy_latents_are_those_of_diffusers(dtype):
    latents, noise = latents_and_noise(dtype)
    expected = DDPMScheduler(**SD).add_noise(latents, noise, TIMESTEPS)
    torch.testing.assert_close(DDPM.stable_diffusion().add_noise(latents, noise, TIMESTEPS), expected, rtol=0, atol=0)


def test_the_velocity_target_is_that_of_diffusers():
    latents, noise = latents_and_noise()
    expected = DDPMScheduler(**SD).get_velocity(latents, noise, TIMESTEPS)
    torch.testing.assert_close(DDPM.stable_diffusion("v_prediction").target(latents, noise, TIMESTEPS), expected, rtol=0, atol=0)


def test_the_target_of_epsilon_prediction_is_the_noise():
    latents, noise = latents_and_noise()
    assert DDPM.stable_diffusion().target(latents, noise, TIMESTEPS) is noise


def test_at_zero_terminal_snr_the_last_timestep_is_pure_noise():
    latents, noise = latents_and_noise()
    noisy = DDPM.stable_diffusion(zero_terminal_snr=True).add_noise(latents, noise, torch.tensor([999, 999, 999]))
    torch.testing.assert_close(noisy, noise, rtol=0, atol=0)


def test_timesteps_stay_in_their_range_and_reach_both_ends():
    torch.manual_seed(0)
    assert set(DDPM.stable_diffusion().timesteps(200, 5, 8).tolist()) == {5, 6, 7}


def test_a_fixed_timestep_draws_nothing():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert DDPM.stable_diffusion().timesteps(2, 300, 300).tolist() == [300, 300]
    assert torch.equal(torch.get_rng_state(), before)


def test_tables_move_with_the_objective():
    moved = DDPM.stable_diffusion("v_prediction").to("meta")
    assert (moved.alphas_cumprod.device.type, moved.snr.device.type, moved.prediction_type) == ("meta", "meta", "v_prediction")


def test_an_unknown_prediction_type_is_named():
    with pytest.raises(ValueError, match="'sample'"):
        DDPM.stable_diffusion("sample")
