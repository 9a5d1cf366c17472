"""Noise variants by hand, and the order in which they draw."""

import random

import pytest
import torch
import torch.nn.functional as F

from library.diffusion.noise import NoiseSettings, draw_noise, noisy_latents, offset, pyramid
from library.diffusion.objectives import DDPM

OBJECTIVE = DDPM.stable_diffusion()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)
    yield


def same_draws(function):
    """What `function` returns when the generator stands where it stood at the start of the test."""
    torch.manual_seed(3)
    return function()


def test_plain_noise_and_timesteps_are_two_draws_in_this_order():
    latents = torch.zeros(2, 4, 8, 8)
    noise, noisy, timesteps = noisy_latents(latents, OBJECTIVE, NoiseSettings(), random)
    expected = same_draws(lambda: (torch.randn(2, 4, 8, 8), torch.randint(0, 1000, (2,))))
    assert torch.equal(noise, expected[0]) and torch.equal(timesteps, expected[1])
    torch.testing.assert_close(noisy, OBJECTIVE.add_noise(latents, noise, timesteps), rtol=0, atol=0)


def test_everything_at_once_draws_in_the_documented_order():
    latents = torch.full((2, 4, 8, 8), 2.0)
    settings = NoiseSettings(0.1, True, 0.05, 2, 0.5, 0.2, True, 10, 900)
    noise, noisy, timesteps = noisy_latents(latents, OBJECTIVE, settings, random.Random(1))

    def by_hand():
        plain = torch.randn(2, 4, 8, 8)
        plain = plain + (torch.rand(1) * 0.1 + 0.05 * 2.0) * torch.randn(2, 4, 1, 1)
        scales = random.Random(1)
        scales.random()
        plain = plain + torch.randn(2, 4, 8, 8)
        side = int(8 / (scales.random() * 2 + 2))
        plain = plain + F.interpolate(torch.randn(2, 4, side, side), size=(8, 8), mode="bilinear") * 0.5
        plain = plain / plain.std()
        times = torch.randint(10, 900, (2,))
        return plain, OBJECTIVE.add_noise(latents, plain + torch.rand(1) * 0.2 * torch.randn(2, 4, 8, 8), times), times

    for ours, expected in zip((noise, noisy, timesteps), same_draws(by_hand), strict=True):
        torch.testing.assert_close(ours, expected)


def test_noise_offset_shifts_whole_channels():
    noise = draw_noise(torch.zeros(2, 4, 8, 8), NoiseSettings(noise_offset=0.5), random)
    shift = noise - same_draws(lambda: torch.randn(2, 4, 8, 8))
    torch.testing.assert_close(shift, shift[:, :, :1, :1].expand_as(shift), rtol=0, atol=1e-6)
    assert shift[0, 0, 0, 0] != shift[0, 1, 0, 0]


def test_a_negative_adaptive_scale_never_turns_the_offset_around():
    bright = torch.full((1, 4, 2, 2), 100.0)
    assert torch.equal(offset(bright, 0.1, adaptive_scale=-1.0), torch.zeros(1, 4, 1, 1))


def test_pyramid_noise_has_unit_deviation_and_leaves_its_input_alone():
    noise = torch.randn(2, 4, 16, 16)
    before = noise.clone()
    assert pyramid(noise, 6, 0.8, random.Random(0)).std().item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(noise, before)


class CountingScales:
    calls = 0

    def random(self):
        self.calls += 1
        return 1.0


def test_the_pyramid_ends_at_one_pixel():
    scales = CountingScales()
    pyramid(torch.randn(1, 4, 16, 32), 10, 0.3, scales)
    assert scales.calls == 3  # 16, 4, 1


def test_input_perturbation_leaves_the_target_noise_alone():
    noise, noisy, timesteps = noisy_latents(torch.zeros(1, 4, 4, 4), OBJECTIVE, NoiseSettings(ip_noise_gamma=0.1), random)
    assert torch.equal(noise, same_draws(lambda: torch.randn(1, 4, 4, 4)))
    assert not torch.equal(noisy, OBJECTIVE.add_noise(torch.zeros(1, 4, 4, 4), noise, timesteps))


def test_noise_has_the_latents_dtype():
    assert draw_noise(torch.zeros(1, 4, 4, 4, dtype=torch.bfloat16), NoiseSettings(), random).dtype == torch.bfloat16
