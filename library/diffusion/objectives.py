"""What the denoiser is asked to do: how noise is mixed in, and which tensor is the right answer."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from library.diffusion import schedules

PREDICTION_TYPES = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class DDPM:
    """Variance-preserving diffusion (arXiv:2006.11239, eq. 4); `v_prediction` is arXiv:2202.00512, appendix D.

    alphas_cumprod: (T,) share of signal power left at each timestep.
    snr: (T,) signal over noise power that loss weights go by. It is taken from the schedule *before* the
    zero-terminal-SNR change, so it is finite and above zero everywhere.
    """

    alphas_cumprod: Tensor
    snr: Tensor
    prediction_type: str = "epsilon"

    def __post_init__(self):
        if self.prediction_type not in PREDICTION_TYPES:
            raise ValueError(f"prediction_type must be one of {', '.join(PREDICTION_TYPES)}, got {self.prediction_type!r}")

    @classmethod
    def stable_diffusion(cls, prediction_type: str = "epsilon", zero_terminal_snr: bool = False) -> "DDPM":
        """The schedule of SD1, SD2 and SDXL, on the CPU."""
        alphas_cumprod = schedules.alphas_cumprod()
        snr = schedules.snr(alphas_cumprod)
        if zero_terminal_snr:
            alphas_cumprod = schedules.zero_terminal_snr(alphas_cumprod)
        return cls(alphas_cumprod, snr, prediction_type)

    @property
    def train_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def to(self, device: torch.device | str) -> "DDPM":
        """The same objective with its tables on `device`: call it once, before the loop."""
        return replace(self, alphas_cumprod=self.alphas_cumprod.to(device), snr=self.snr.to(device))

    def timesteps(self, batch: int, low: int = 0, high: int | None = None) -> Tensor:
        """(batch,) int64 on the CPU, uniform in low..high-1; all equal to `high`, without a draw, when low >= high."""
        high = self.train_timesteps if high is None else high
        if low >= high:
            return torch.full((batch,), high, dtype=torch.int64)
        return torch.randint(low, high, (batch,), device="cpu")

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """sqrt(ac_t) * latents + sqrt(1 - ac_t) * noise, all (B, C, h, w), in the latents' dtype."""
        signal, sigma = self._amplitudes(latents, timesteps)
        return signal * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser should output, (B, C, h, w): the noise, or the velocity sqrt(ac_t) * noise - sqrt(1 - ac_t) * latents."""
        if self.prediction_type == "epsilon":
            return noise
        signal, sigma = self._amplitudes(latents, timesteps)
        return signal * noise - sigma * latents

    def _amplitudes(self, latents: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        power = self.alphas_cumprod.to(latents.dtype)[timesteps].view(-1, 1, 1, 1)
        return power**0.5, (1 - power) ** 0.5
