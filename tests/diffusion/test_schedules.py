"""The schedule tables against diffusers and by hand."""

import torch
from diffusers import DDPMScheduler

from library.diffusion import schedules
from library.diffusion.objectives import DDPM

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def test_the_schedule_is_that_of_diffusers():
    torch.testing.assert_close(schedules.alphas_cumprod(), DDPMScheduler(**SD).alphas_cumprod, rtol=0, atol=0)


def test_zero_terminal_snr_is_that_of_diffusers_and_ends_in_pure_noise():
    ours = schedules.zero_terminal_snr(schedules.alphas_cumprod())
    theirs = DDPMScheduler(**SD, rescale_betas_zero_snr=True).alphas_cumprod
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
    assert ours[-1] == 0


def test_snr_is_signal_power_over_noise_power():
    torch.testing.assert_close(schedules.snr(torch.tensor([0.5, 0.8, 0.2])), torch.tensor([1.0, 4.0, 0.25]))


def test_loss_weights_go_by_the_schedule_before_the_zero_terminal_change():
    plain, changed = DDPM.stable_diffusion(), DDPM.stable_diffusion(zero_terminal_snr=True)
    torch.testing.assert_close(changed.snr, plain.snr, rtol=0, atol=0)
    assert changed.snr.min() > 0
