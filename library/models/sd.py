"""Stable Diffusion 1.x and 2.x."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from library.diffusion.objectives import DDPM
from library.models import modes, text, vae
from library.models.checkpoints import Checkpoint, open_checkpoint
from library.models.diffusers_folder import load_part, part_config
from library.models.family import PARTS, TEXT_ENCODERS, UNET, VAE, LatentFormat, Models
from library.models.kinds import SD1, SD2, base_model_version, kind_of_tensors, kind_of_unet_config, require_kind
from library.models.kohya_view import models_view
from library.models.ldm_keys import CLIP_PREFIX, OPENCLIP_PREFIX, UNET_PREFIX
from library.models.model_files import is_single_file
from library.models.single_file import clip_text_encoder, empty_unet, fill_unet, openclip_text_encoder
from library.models.spec_facts import sd_facts
from library.models.swallow import layer_draws, text_encoder_draws
from library.models.tokenizer import CLIP_L, OPENCLIP_H, ClipTokenizer, load_tokenizer
from library.models.vae import VaeLoader
from library.saving.modelspec import ModelFacts

SAMPLE_SIZE = 64  # latent pixels on a side, for the configuration of models from single files
SD1_HEADS = 8


@dataclass(frozen=True)
class SD:
    """v2: Stable Diffusion 2.x. v_parameterization: it predicts velocity. clip_skip: text states this many layers from the end."""

    v2: bool = False
    v_parameterization: bool = False
    clip_skip: int | None = None
    max_token_length: int | None = None
    tokenizer_cache_dir: str | None = None

    name: ClassVar[str] = "sd"
    latents: ClassVar[LatentFormat] = LatentFormat(scaling_factor=0.18215, bucket_step=64, cache_suffix="_sd.npz")

    def __post_init__(self):
        text.token_count(self.max_token_length)
        if self.clip_skip is not None and self.clip_skip < 1:
            raise ValueError(f"--clip_skip must be 1 or more, got {self.clip_skip}")

    @classmethod
    def from_args(cls, args) -> "SD":
        return cls(
            v2=args.v2,
            v_parameterization=args.v_parameterization,
            clip_skip=args.clip_skip,
            max_token_length=args.max_token_length,
            tokenizer_cache_dir=args.tokenizer_cache_dir,
        )

    @property
    def base_model_version(self) -> str:
        return base_model_version(SD2 if self.v2 else SD1, v_parameterization=self.v_parameterization)

    @property
    def prediction_type(self) -> str:
        return "v_prediction" if self.v_parameterization else "epsilon"

    def objective(self, zero_terminal_snr: bool) -> DDPM:
        return DDPM.stable_diffusion(self.prediction_type, zero_terminal_snr)

    def modelspec_facts(self) -> ModelFacts:
        return sd_facts(v2=self.v2, v_parameterization=self.v_parameterization)

    # --- loading ---

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
        """See Family.load. Raises ValueError for a model of another kind than --v2 says, or a file that cannot be read."""
        vae_loader = VaeLoader(vae, self.latents.scaling_factor, SAMPLE_SIZE, own_draws_count=True, dtype=vae_dtype or dtype, device=device)
        if is_single_file(path):
            models = self._from_file(open_checkpoint(path, disable_mmap), vae_loader, dtype, device, parts)
        else:
            models = self._from_folder(path, vae_loader, dtype, device, parts)
        return modes.freeze(models)

    @property
    def _kind(self) -> str:
        return SD2 if self.v2 else SD1

    def _from_file(self, checkpoint: Checkpoint, vae_loader: VaeLoader, dtype, device, parts: Container[str]) -> Models:
        require_kind(kind_of_tensors(checkpoint.shapes), self._kind, checkpoint.path)
        models = Models()
        if UNET in parts:
            part = checkpoint.part(UNET_PREFIX)
            # SD2's linear projections become 1x1 convolutions, which is the shape adapters for it have in files.
            models.unet = empty_unet(part, heads=None if self.v2 else SD1_HEADS, linear_projection=False, sample_size=SAMPLE_SIZE)
            require_kind(kind_of_unet_config(models.unet.config), self._kind, checkpoint.path)
            fill_unet(models.unet, part, dtype=dtype, device=device)
            models.swallowed_draws += layer_draws(models.unet)
        if VAE in parts:
            models.vae, draws = vae_loader.of_file(checkpoint)
            models.swallowed_draws += draws
        if TEXT_ENCODERS in parts:
            models.text_encoders = [self._text_encoder(checkpoint, dtype, device)]
            models.swallowed_draws += text_encoder_draws(models.text_encoders[0])
        return models

    def _text_encoder(self, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device | str) -> CLIPTextModel:
        if self.v2:
            part = checkpoint.part(OPENCLIP_PREFIX)
            return openclip_text_encoder(part, keep_last_layer=False, projection=False, dtype=dtype, device=device)
        return clip_text_encoder(checkpoint.part(CLIP_PREFIX), dtype=dtype, device=device)

    def _from_folder(self, path: str, vae_loader: VaeLoader, dtype, device, parts: Container[str]) -> Models:
        require_kind(kind_of_unet_config(part_config(path, "unet")), self._kind, path)
        models = Models()
        if UNET in parts:
            models.unet = load_part(UNet2DConditionModel, path, "unet", dtype=dtype, device=device)
            models.swallowed_draws += layer_draws(models.unet)
        if TEXT_ENCODERS in parts:
            models.text_encoders = [load_part(CLIPTextModel, path, "text_encoder", dtype=dtype, device=device)]
        if VAE in parts:
            models.vae, draws = vae_loader.of_folder(path)
            models.swallowed_draws += draws
        return models

    # --- text ---

    @cached_property
    def tokenizer(self) -> ClipTokenizer:
        return load_tokenizer(OPENCLIP_H if self.v2 else CLIP_L, self.tokenizer_cache_dir)

    def tokenize(self, captions: list[str]) -> list[Tensor]:
        return [text.token_chunks(captions, self.tokenizer, text.token_count(self.max_token_length))]

    def tokenize_weighted(self, captions: list[str], tokens: int | None = None) -> tuple[list[Tensor], list[Tensor]]:
        ids, weights = text.weighted_token_chunks(captions, self.tokenizer, tokens or text.token_count(self.max_token_length))
        return [ids], [weights]

    def encode_text(
        self,
        text_encoders: list[nn.Module],
        input_ids: list[Tensor],
        token_weights: list[Tensor] | None = None,
        restore_mean: bool = False,
    ) -> dict[str, Tensor]:
        states = text.joined(text.skipped_states(text_encoders[0], input_ids[0], self.clip_skip), input_ids[0].shape[1])
        return {"prompt_embeds": text.weighted(states, token_weights[0] if token_weights else None, restore_mean)}

    # --- images ---

    def encode_images(self, vae_model: nn.Module, pixels: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        return vae.encode_images(vae_model, pixels, seeds)

    def predict(
        self, unet: nn.Module, noisy_latents: Tensor, timesteps: Tensor, text_states: dict[str, Tensor], sizes: dict[str, Tensor]
    ) -> Tensor:
        return unet(noisy_latents, timesteps, encoder_hidden_states=text_states["prompt_embeds"]).sample

    # --- networks ---

    def text_encoder_for_network(self, models: Models) -> nn.Module:
        return models.text_encoders[0]

    def view_for_network(self, models: Models) -> tuple[nn.Module, nn.Module]:
        (text_encoder,), unet = models_view(models.unet, models.text_encoders, original_layout=False)
        return text_encoder, unet

    def enable_gradient_checkpointing(self, models: Models, *, train_text_encoders: bool) -> None:
        modes.enable_gradient_checkpointing(models, train_text_encoders=train_text_encoders)
