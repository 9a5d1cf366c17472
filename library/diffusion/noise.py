"""The random part of a training step: noise, its variants, and the timesteps.

The order of the draws is part of the contract, because the same seed must give the same LoRA: noise, offset strength,
offset, pyramid pieces, timesteps, input perturbation strength, input perturbation. All come from torch's global
generators: the one of the latents' device, but pyramid pieces and timesteps always from the CPU's.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from library.diffusion.objectives import DDPM


class Random(Protocol):
    """What is needed of python's `random` module or of a `random.Random`."""

    def random(self) -> float: ...


@dataclass(frozen=True)
class NoiseSettings:
    """Options of the noise; a strength of None or 0 switches its variant off.

    noise_offset: see `offset`. multires_noise_*: see `pyramid`. ip_noise_gamma: extra noise on the input alone
    (arXiv:2301.11706). The `*_random_strength` switches draw a strength between 0 and the given one for each batch.
    min_timestep..max_timestep: range of the draw, upper end excluded; None is the whole range.
    """

    noise_offset: float | None = None
    noise_offset_random_strength: bool = False
    adaptive_noise_scale: float | None = None
    multires_noise_iterations: int | None = None
    multires_noise_discount: float = 0.3
    ip_noise_gamma: float | None = None
    ip_noise_gamma_random_strength: bool = False
    min_timestep: int | None = None
    max_timestep: int | None = None


def noisy_latents(latents: Tensor, objective: DDPM, settings: NoiseSettings, rng: Random) -> tuple[Tensor, Tensor, Tensor]:
    """Everything a step draws: (noise, noisy_latents, timesteps).

    latents: (B, C, h, w), scaled and contiguous (other strides change what is drawn). The timesteps, (B,) int64,
    are drawn on the CPU and returned on the latents' device. The returned noise is free of input perturbation.
    """
    noise = draw_noise(latents, settings, rng)
    timesteps = draw_timesteps(len(latents), objective, settings).to(latents.device, non_blocking=True)
    perturbed = perturb(noise, latents, settings)
    return noise, objective.add_noise(latents, perturbed, timesteps), timesteps


def draw_noise(latents: Tensor, settings: NoiseSettings, rng: Random) -> Tensor:
    """Gaussian noise of the latents' shape with the offset and pyramid variants. rng gives the pyramid's scales."""
    noise = torch.randn_like(latents)
    if settings.noise_offset:
        noise = noise + offset(latents, settings.noise_offset, settings.noise_offset_random_strength, settings.adaptive_noise_scale)
    if settings.multires_noise_iterations:
        noise = pyramid(noise, settings.multires_noise_iterations, settings.multires_noise_discount, rng)
    return noise


def draw_timesteps(batch: int, objective: DDPM, settings: NoiseSettings) -> Tensor:
    """(batch,) int64 on the CPU. Equal ends of the range fix the timestep and draw nothing."""
    low = 0 if settings.min_timestep is None else settings.min_timestep
    high = objective.train_timesteps if settings.max_timestep is None else settings.max_timestep
    return objective.timesteps(batch, low, high)


def offset(latents: Tensor, strength: float, random_strength: bool = False, adaptive_scale: float | None = None) -> Tensor:
    """One random shift per sample and channel, (B, C, 1, 1), so that dark and bright images can be learned.

    From the article "Diffusion with Offset Noise" (crosslabs.org, 2023). With `adaptive_scale` the strength grows by that
    factor times the channel's absolute mean, but not below 0.
    """
    shift = strength
    if random_strength:
        shift = torch.rand(1, device=latents.device) * strength
    if adaptive_scale:
        brightness = latents.mean(dim=(2, 3), keepdim=True).abs()
        shift = (shift + adaptive_scale * brightness).clamp(min=0.0)
    return shift * torch.randn((latents.shape[0], latents.shape[1], 1, 1), device=latents.device)


def pyramid(noise: Tensor, iterations: int, discount: float, rng: Random) -> Tensor:
    """Noise with ever coarser noise added, scaled back to unit deviation over the whole batch.

    From the report "Multi-Resolution Noise for Diffusion Model Training" (wandb.ai, 2023). Level i is smaller by r**i, with r in 2..4
    drawn anew each time, and counts discount**i; level 0 has full size and weight 1. It ends early at one pixel.
    """
    batch, channels, height, width = noise.shape
    noise = noise.clone()
    for level in range(iterations):
        shrink = (rng.random() * 2 + 2) ** level
        rows, columns = max(1, int(height / shrink)), max(1, int(width / shrink))
        coarse = torch.randn(batch, channels, rows, columns).to(noise.device, non_blocking=True)
        noise += F.interpolate(coarse, size=(height, width), mode="bilinear") * discount**level
        if rows == 1 or columns == 1:
            break
    return noise / noise.std()


def perturb(noise: Tensor, latents: Tensor, settings: NoiseSettings) -> Tensor:
    """The noise that is mixed into the input: with input perturbation (arXiv:2301.11706) a little more than the target's."""
    if not settings.ip_noise_gamma:
        return noise
    strength = settings.ip_noise_gamma
    if settings.ip_noise_gamma_random_strength:
        strength = torch.rand(1, device=latents.device) * strength
    return noise + strength * torch.randn_like(latents)
