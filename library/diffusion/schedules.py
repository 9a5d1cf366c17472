"""The noise schedule of Stable Diffusion, as tables over its 1000 training timesteps.

Pure arithmetic on float32 tensors on the CPU; nothing here knows about latents or options.
"""

import torch
from torch import Tensor

TRAIN_TIMESTEPS = 1000
BETA_START = 0.00085
BETA_END = 0.012


def alphas_cumprod() -> Tensor:
    """Share of signal power left at each timestep, (1000,) float32, of the "scaled linear" schedule (arXiv:2112.10752)."""
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_TIMESTEPS, dtype=torch.float32) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """The schedule shifted and stretched so that its last timestep is pure noise (arXiv:2305.08891, algorithm 1).

    alphas_cumprod: (T,). The result's last value is exactly 0. It is rebuilt by a running product of the single
    steps, as a noise scheduler would do it from betas, so rounding matches schedulers made from these betas.
    """
    amplitude = alphas_cumprod.sqrt()
    first, last = amplitude[0].clone(), amplitude[-1].clone()
    amplitude = (amplitude - last) * (first / (first - last))
    power = amplitude**2
    steps = torch.cat([power[:1], power[1:] / power[:-1]])
    betas = 1 - steps
    return torch.cumprod(1.0 - betas, dim=0)


def snr(alphas_cumprod: Tensor) -> Tensor:
    """Signal power over noise power at each timestep, (T,)."""
    return (alphas_cumprod.sqrt() / (1.0 - alphas_cumprod).sqrt()) ** 2
