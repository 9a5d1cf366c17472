"""The distance between prediction and target, element by element, and the loss of each sample built on it.

Everything is computed in float32 on the device of the inputs; nothing is read back to the host.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from library.diffusion import weighting
from library.diffusion.objectives import DDPM

LOSS_TYPES = ("l1", "l2", "huber", "smooth_l1")
HUBER_SCHEDULES = ("constant", "exponential", "snr")


@dataclass(frozen=True)
class LossSettings:
    """Options of the loss, by their names on the command line; None or 0 switches a weighting off.

    huber_c: width of the quadratic middle of the Huber losses (at full noise, for the two schedules).
    huber_scale: factor on that width; the "snr" schedule does not use it.
    """

    loss_type: str = "l2"
    huber_schedule: str = "snr"
    huber_c: float = 0.1
    huber_scale: float = 1.0
    min_snr_gamma: float | None = None
    scale_v_pred_loss_like_noise_pred: bool = False
    v_pred_like_loss: float | None = None
    debiased_estimation_loss: bool = False
    masked_loss: bool = False

    def __post_init__(self):
        if self.loss_type not in LOSS_TYPES:
            raise ValueError(f"--loss_type must be one of {', '.join(LOSS_TYPES)}, got {self.loss_type!r}")
        if self.huber_schedule not in HUBER_SCHEDULES:
            raise ValueError(f"--huber_schedule must be one of {', '.join(HUBER_SCHEDULES)}, got {self.huber_schedule!r}")


def weighted_loss(
    prediction: Tensor,
    target: Tensor,
    timesteps: Tensor,
    objective: DDPM,
    settings: LossSettings,
    *,
    sample_weights: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """The loss of each sample, (B,); the mean over the batch is the caller's.

    prediction, target: (B, C, h, w). timesteps, sample_weights: (B,). mask: (B, 1, h, w) in 0..1, from
    `weighting.latent_mask`. A masked area is not made up for: half a mask gives about half the loss.
    """
    width = huber_width(timesteps, objective, settings)
    loss = elementwise_loss(prediction.float(), target.float(), settings.loss_type, width)
    if mask is not None:
        loss = loss * mask.to(loss.dtype)
    loss = loss.mean(dim=(1, 2, 3)) * sample_weights

    snr = objective.snr[timesteps]
    if settings.min_snr_gamma:
        loss = loss * weighting.min_snr_weights(snr, settings.min_snr_gamma, objective.prediction_type)
    if settings.scale_v_pred_loss_like_noise_pred:
        loss = loss * weighting.velocity_weights(snr)
    if settings.v_pred_like_loss:
        loss = loss + loss / weighting.velocity_weights(snr) * settings.v_pred_like_loss
    if settings.debiased_estimation_loss:
        loss = loss * weighting.debiased_weights(snr, objective.prediction_type)
    return loss


def elementwise_loss(prediction: Tensor, target: Tensor, loss_type: str, width: Tensor | float | None = None) -> Tensor:
    """Distance of each element, shape of the inputs. width: c of the pseudo-Huber losses, one number or (B, 1, 1, 1).

    "huber" is 2c(sqrt(d^2 + c^2) - c): near 0 like d^2, far away like 2c|d|. "smooth_l1" leaves out the factor c: far away
    like 2|d|. Pseudo-Huber losses in diffusion: arXiv:2403.16728.
    """
    difference = prediction - target
    if loss_type == "l2":
        return difference**2
    if loss_type == "l1":
        return difference.abs()
    distance = 2 * (torch.sqrt(difference**2 + width**2) - width)
    return width * distance if loss_type == "huber" else distance


def huber_width(timesteps: Tensor, objective: DDPM, settings: LossSettings) -> Tensor | float | None:
    """The width c of the Huber losses: one number, or (B, 1, 1, 1) by timestep; None for losses without one.

    "exponential" goes from 1 at timestep 0 down to huber_c at the last one; "snr" goes from 1 at no noise to huber_c
    at pure noise (also where zero terminal SNR makes sigma infinite).
    """
    if settings.loss_type not in ("huber", "smooth_l1"):
        return None
    if settings.huber_schedule == "constant":
        return settings.huber_c * settings.huber_scale
    if settings.huber_schedule == "exponential":
        decay = -math.log(settings.huber_c) / objective.train_timesteps
        width = torch.exp(-decay * timesteps) * settings.huber_scale
    else:
        power = objective.alphas_cumprod[timesteps]
        sigma = ((1.0 - power) / power) ** 0.5
        width = (1 - settings.huber_c) / (1 + sigma) ** 2 + settings.huber_c
    return width.view(-1, 1, 1, 1)
