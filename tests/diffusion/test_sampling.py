"""Every sampler, driven by denoisers whose answer is known."""

import pytest
import torch

from library.diffusion.objectives import DDPM
from library.diffusion.sampling import sample_latents
from library.models.samplers import SAMPLERS, make_sampler

PICTURE = torch.linspace(-0.9, 0.9, 4 * 8 * 8).view(1, 4, 8, 8)


def knows(picture: torch.Tensor, prediction_type: str):
    """A denoiser that sees which noise was added to `picture`; between two timesteps it goes by their sigmas."""
    process = DDPM.stable_diffusion(prediction_type, False)
    sigmas = ((1 - process.alphas_cumprod) / process.alphas_cumprod).sqrt()

    def denoise(noisy: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        below = int(timestep)
        sigma = torch.lerp(sigmas[below], sigmas[min(below + 1, 999)], float(timestep) - below)
        alpha = 1 / (1 + sigma**2).sqrt()
        noise = (noisy - alpha * picture) / (alpha * sigma)
        return noise if prediction_type == "epsilon" else alpha * noise - alpha * sigma * picture

    return denoise


def drawn(denoise, name: str, *, prediction_type: str = "epsilon", steps: int = 12, scale: float = 1.0, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(PICTURE.shape, generator=generator)
    scheduler = make_sampler(name, prediction_type)
    return sample_latents(denoise, scheduler, noise, steps=steps, scale=scale, generator=generator)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_arrives_at_the_picture_the_denoiser_has_in_mind(name, prediction_type):
    if name == "lms":
        pytest.importorskip("scipy")
    result = drawn(knows(PICTURE, prediction_type), name, prediction_type=prediction_type)
    assert (result - PICTURE).abs().mean() < 0.05


def test_guidance_goes_from_the_negative_prompt_through_the_prompt():
    def denoise(noisy, timestep):
        with_prompt, without = knows(PICTURE, "epsilon"), knows(0 * PICTURE, "epsilon")
        return torch.cat([with_prompt(noisy[:1], timestep), without(noisy[1:], timestep)])

    torch.testing.assert_close(drawn(denoise, "euler", scale=1.5), drawn(knows(1.5 * PICTURE, "epsilon"), "euler"), rtol=0, atol=1e-3)


def test_without_guidance_the_negative_prompt_is_not_computed():
    sizes = set()

    def denoise(noisy, timestep):
        sizes.add(len(noisy))
        return torch.zeros_like(noisy)

    drawn(denoise, "ddim", steps=2, scale=1.0)
    assert sizes == {1}


@pytest.mark.parametrize("name", ["ddim", "pndm", "dpmsolver++", "dpmsingle", "heun", "dpm_2_a"])
def test_a_sampler_that_is_used_again_draws_the_same(name):
    scheduler = make_sampler(name, "epsilon")

    def result() -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        noise = torch.randn(PICTURE.shape, generator=generator)
        return sample_latents(knows(PICTURE, "epsilon"), scheduler, noise, steps=5, scale=1.0, generator=generator)

    assert torch.equal(result(), result())
