"""Weights on the loss: by the noise level of each sample, and by area.

snr is always the signal over noise power at each sample's timestep, (B,), and the results are (B,) factors.
"""

import torch.nn.functional as F
from torch import Tensor

HIGHEST_SNR = 1000.0  # keeps nearly clean timesteps from dominating or vanishing


def min_snr_weights(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Weights that cap the pull of nearly clean images (Min-SNR, arXiv:2303.09556, section 3.4). gamma: the cap, 5 in the paper."""
    clipped = snr.clamp(max=gamma)
    return clipped / (snr if prediction_type == "epsilon" else snr + 1)


def velocity_weights(snr: Tensor) -> Tensor:
    """snr / (snr + 1): turns a velocity loss into a noise loss (arXiv:2202.00512, section 4 and appendix D)."""
    capped = snr.clamp(max=HIGHEST_SNR)
    return capped / (capped + 1)


def debiased_weights(snr: Tensor, prediction_type: str) -> Tensor:
    """1 / sqrt(snr), which debiases the estimate of the clean image (arXiv:2310.08442); 1 / (snr + 1) for velocity."""
    capped = snr.clamp(max=HIGHEST_SNR)
    return 1 / capped.sqrt() if prediction_type == "epsilon" else 1 / (capped + 1)


def latent_mask(
    size: tuple[int, int], *, conditioning_images: Tensor | None = None, alpha_masks: Tensor | None = None, masked_loss: bool = False
) -> Tensor | None:
    """Where the loss counts, (B, 1, h, w) in 0..1, or None for everywhere. size: (h, w) of the latents.

    conditioning_images: (B, 3, H, W) in -1..1, the first channel is the mask. alpha_masks: (B, H, W) in 0..1, used when
    there are no conditioning images. Alpha masks switch masking on by themselves, conditioning images need `masked_loss` too.
    """
    if not masked_loss and alpha_masks is None:
        return None
    if conditioning_images is not None:
        mask = conditioning_images[:, :1] / 2 + 0.5
    elif alpha_masks is not None:
        mask = alpha_masks.unsqueeze(1)
    else:
        return None
    return F.interpolate(mask.float(), size=size, mode="area")
