"""The VAE: read from wherever --vae points, and from images to latents."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from library.models.checkpoints import Checkpoint, open_checkpoint
from library.models.diffusers_folder import load_part
from library.models.kinds import kind_of_tensors
from library.models.ldm_keys import VAE_PREFIX
from library.models.model_files import is_single_file
from library.models.single_file import empty_vae, fill_vae, original_vae_names
from library.models.swallow import layer_draws


@dataclass(frozen=True)
class VaeLoader:
    """Loads the VAE of a model, or the one --vae names in its place.

    external: the value of --vae, None for the model's own. scaling_factor and sample_size (latent pixels on a side) go into
    the configuration of a VAE from a single file, which has none. own_draws_count: whether the reference draws random numbers
    to build the VAE of a model in a single file (see library.models.swallow); it always does for an external file.
    """

    external: str | None
    scaling_factor: float
    sample_size: int
    own_draws_count: bool
    dtype: torch.dtype
    device: torch.device | str

    def of_file(self, checkpoint: Checkpoint) -> tuple[AutoencoderKL, int]:
        """The VAE for a model in a single file, and the draws that building all VAEs involved costs the reference."""
        part = vae_part(checkpoint)
        has_own = "encoder.conv_in.weight" in part.shapes
        own = self._empty(part) if has_own else None
        own_draws = layer_draws(own) if has_own and self.own_draws_count else 0
        if self.external is not None:
            vae, draws = self._external()
            return vae, own_draws + draws
        if own is None:
            raise ValueError(f"--pretrained_model_name_or_path {checkpoint.path} holds no VAE: name one with --vae")
        return fill_vae(own, part, dtype=self.dtype, device=self.device), own_draws

    def of_folder(self, path: str) -> tuple[AutoencoderKL, int]:
        """The same for a model in a diffusers folder or on the hub, whose own parts cost no draws."""
        if self.external is not None:
            return self._external()
        return load_part(AutoencoderKL, path, "vae", dtype=self.dtype, device=self.device), 0

    def _external(self) -> tuple[AutoencoderKL, int]:
        """A file in original or diffusers names, or a whole checkpoint; a folder or hub id of a VAE or of a whole model.

        Raises ValueError, naming --vae, if there is no VAE.
        """
        if not is_single_file(self.external):
            return _external_folder(self.external, self.dtype, self.device), 0
        part = vae_part(open_checkpoint(self.external))
        if "encoder.conv_in.weight" not in part.shapes:
            raise ValueError(f"--vae {self.external} holds no VAE but {kind_of_tensors(part.shapes)}")
        vae = self._empty(part)
        return fill_vae(vae, part, dtype=self.dtype, device=self.device), layer_draws(vae)

    def _empty(self, part: Checkpoint) -> AutoencoderKL:
        return empty_vae(part, scaling_factor=self.scaling_factor, sample_size=8 * self.sample_size)


def vae_part(checkpoint: Checkpoint) -> Checkpoint:
    """The VAE's tensors of any file under original names, without a prefix."""
    if any(name.startswith(VAE_PREFIX) for name in checkpoint.shapes):
        checkpoint = checkpoint.part(VAE_PREFIX)
    if any(name.startswith("encoder.down_blocks.") for name in checkpoint.shapes):
        return original_vae_names(checkpoint)
    return checkpoint


def _external_folder(path: str, dtype: torch.dtype, device: torch.device | str) -> AutoencoderKL:
    if os.path.isdir(path):
        subfolders = [None] if os.path.isfile(os.path.join(path, "config.json")) else ["vae"]
    else:
        subfolders = [None, "vae"]
    failures = []
    for subfolder in subfolders:
        try:
            return load_part(AutoencoderKL, path, subfolder, dtype=dtype, device=device)
        except ValueError as error:
            failures.append(error)
    raise ValueError(f"--vae {failures[0]}") from failures[0]


def encode_images(vae: nn.Module, pixels: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
    """(B, 3, H, W) in -1..1 -> latents (B, C, H/8, W/8), a sample of the posterior, not yet scaled.

    seeds: one for each image, from which alone its sample is drawn; None draws them from torch's generator.
    They are contiguous: of a batch the VAE returns channels-last strides on the CPU, and noise drawn in the likeness of
    those would come in another order.
    """
    generators = None if seeds is None else [torch.Generator().manual_seed(seed) for seed in seeds]
    return vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.sample(generators).contiguous()
