"""From noise to latents with one of diffusers' schedulers and classifier-free guidance (arXiv:2207.12598)."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(noisy latents (N, C, h, w), timestep ()) -> prediction (N, C, h, w). N is 2 with guidance, prompt before negative prompt, else 1."""


def sample_latents(denoise: Denoise, scheduler: Any, noise: Tensor, *, steps: int, scale: float, generator: torch.Generator) -> Tensor:
    """(1, C, h, w) of latents, scaled as in training.

    noise: the same shape, of unit variance. scale: of the guidance; at 1 and below the negative prompt has no part.
    generator: for schedulers that add noise between the steps.
    """
    scheduler.set_timesteps(steps, device=noise.device)
    randomness = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    latents = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        noisy = scheduler.scale_model_input(latents, timestep)
        if scale > 1:
            with_prompt, without = denoise(torch.cat([noisy, noisy]), timestep).chunk(2)
            prediction = without + scale * (with_prompt - without)
        else:
            prediction = denoise(noisy, timestep)
        latents = scheduler.step(prediction, timestep, latents, **randomness).prev_sample
    return latents
