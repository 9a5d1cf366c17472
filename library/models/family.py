"""What a model family offers to the recipe: one object with these names, and the models it loads.

A new family is a new class with the same names; the recipe never asks which one it has.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from library.diffusion.objectives import DDPM
from library.saving.modelspec import ModelFacts


@dataclass(frozen=True)
class LatentFormat:
    """How images become latents.

    scaling_factor: training multiplies the VAE's output by it. stride: pixels per latent pixel. bucket_step: bucket sizes
    must be multiples of it, in pixels. cache_suffix, text_cache_suffix: endings of the cache files beside an image.
    """

    scaling_factor: float
    bucket_step: int
    cache_suffix: str
    text_cache_suffix: str | None = None
    channels: int = 4
    stride: int = 8


UNET, VAE, TEXT_ENCODERS = "unet", "vae", "text_encoders"
PARTS = (UNET, VAE, TEXT_ENCODERS)
"""What a model consists of: the names of the fields of Models."""


@dataclass
class Models:
    """The frozen models of a run, in eval mode; unet and vae are None, and text_encoders empty, where they were not asked for.

    swallowed_draws: 32-bit draws the reference would have spent building them (see library.models.swallow).
    logit_scale: a scalar of SDXL's single-file layout that no model uses; kept for writing such a file again.
    norms_keep_layout: whether the U-Net's group norms return pictures laid out in memory as they came.
    """

    unet: nn.Module | None = None
    vae: nn.Module | None = None
    text_encoders: list[nn.Module] = field(default_factory=list)
    swallowed_draws: int = 0
    logit_scale: Tensor | None = None
    norms_keep_layout: bool = False


class Family(Protocol):
    """See library.models.sd and library.models.sdxl for the two families there are."""

    name: str
    base_model_version: str
    prediction_type: str
    latents: LatentFormat

    @classmethod
    def from_args(cls, args) -> "Family":
        """The family as the command line describes it. Raises ValueError for options that do not fit together."""

    def load(
        self,
        path: str,
        *,
        vae: str | None = None,
        dtype: torch.dtype = torch.float32,
        vae_dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        disable_mmap: bool = False,
        parts: Container[str] = PARTS,
    ) -> Models:
        """Loads a single file, a diffusers folder or a hub id, frozen and in eval mode; vae_dtype: `dtype` if not given.

        parts: those of PARTS to build; the others are neither built nor read.
        """

    def objective(self, zero_terminal_snr: bool) -> DDPM:
        """The diffusion process the model was trained with, its tables on the CPU."""

    def encode_images(self, vae: nn.Module, pixels: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """(B, 3, H, W) in -1..1 -> latents (B, C, H/stride, W/stride), sampled, contiguous, not yet scaled.

        seeds: one for each image, from which alone its sample is drawn; None draws them from torch's generator.
        """

    def tokenize(self, captions: list[str]) -> list[Tensor]:
        """One (B, chunks, 77) int64 per text encoder."""

    def tokenize_weighted(self, captions: list[str], tokens: int | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Ids as from `tokenize` for captions with (weights:1.2), and one (B, 75 * chunks + 2) of weights per text encoder.

        tokens: 75, 150 or 225 for each caption; --max_token_length if None.
        """

    def encode_text(
        self,
        text_encoders: list[nn.Module],
        input_ids: list[Tensor],
        token_weights: list[Tensor] | None = None,
        restore_mean: bool = False,
    ) -> dict[str, Tensor]:
        """prompt_embeds (B, 75 * chunks + 2, D), and pooled_prompt_embeds (B, D) where the family has them.

        restore_mean: each sample keeps the mean it has without token_weights, one text encoder by one.
        """

    def predict(
        self, unet: nn.Module, noisy_latents: Tensor, timesteps: Tensor, text_states: dict[str, Tensor], sizes: dict[str, Tensor]
    ) -> Tensor:
        """The U-Net's output, shaped like noisy_latents. sizes: original_sizes_hw, crop_top_lefts, target_sizes_hw, (B, 2) pixels."""

    def text_encoder_for_network(self, models: Models) -> Any:
        """The text encoder argument of the network plug-in contract: one module, or a list of several."""

    def view_for_network(self, models: Models) -> tuple[Any, nn.Module]:
        """The text encoder argument and the U-Net as kohya's own classes show them, for network modules of others."""

    def enable_gradient_checkpointing(self, models: Models, *, train_text_encoders: bool) -> None:
        """Recompute instead of keep activations, in the U-Net and in text encoders that are trained; sets train mode for it."""

    def modelspec_facts(self) -> ModelFacts:
        """What `modelspec.*` metadata says about an adapter for this family."""
