"""Stable Diffusion XL: two text encoders, and a U-Net that is told the sizes of images."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from library.diffusion.objectives import DDPM
from library.models import modes, text, vae
from library.models.checkpoints import Checkpoint, open_checkpoint
from library.models.diffusers_folder import load_part, part_config
from library.models.family import PARTS, TEXT_ENCODERS, UNET, VAE, LatentFormat, Models
from library.models.kinds import BASE_MODEL_VERSIONS, kind_of_tensors, kind_of_unet_config, require_kind
from library.models.kinds import SDXL as SDXL_KIND
from library.models.kohya_view import models_view
from library.models.ldm_keys import UNET_PREFIX
from library.models.model_files import is_single_file
from library.models.sdxl_keys import TEXT_ENCODER_1_PREFIX, TEXT_ENCODER_2_PREFIX
from library.models.single_file import clip_text_encoder, empty_unet, fill_unet, openclip_text_encoder
from library.models.spec_facts import sdxl_facts
from library.models.tokenizer import CLIP_L, OPENCLIP_BIGG, ClipTokenizer, load_tokenizer
from library.models.vae import VaeLoader
from library.saving.modelspec import ModelFacts

SAMPLE_SIZE = 128  # latent pixels on a side, for the configuration of models from single files
TEXT_LAYER_1 = 11  # hidden state of the first text encoder: the last but one of 12 layers
TEXT_LAYER_2 = -2


@dataclass(frozen=True)
class SDXL:
    """v_parameterization: it predicts velocity.

    transpose_text_projection: the second text encoder's projection is stored transposed in single files. The reference
    takes it as it is stored, so its pooled states differ from those of the same model in a diffusers folder; False does so too.
    """

    v_parameterization: bool = False
    max_token_length: int | None = None
    tokenizer_cache_dir: str | None = None
    transpose_text_projection: bool = True

    name: ClassVar[str] = "sdxl"
    base_model_version: ClassVar[str] = BASE_MODEL_VERSIONS[SDXL_KIND]
    latents: ClassVar[LatentFormat] = LatentFormat(
        scaling_factor=0.13025, bucket_step=32, cache_suffix="_sdxl.npz", text_cache_suffix="_te_outputs.npz"
    )

    def __post_init__(self):
        text.token_count(self.max_token_length)

    @classmethod
    def from_args(cls, args) -> "SDXL":
        if args.v2:
            raise ValueError("--v2 is for SD2 models: use it with train_network.py")
        return cls(
            v_parameterization=args.v_parameterization,
            max_token_length=args.max_token_length,
            tokenizer_cache_dir=args.tokenizer_cache_dir,
            transpose_text_projection=not args.strict_compat,
        )

    @property
    def prediction_type(self) -> str:
        return "v_prediction" if self.v_parameterization else "epsilon"

    def objective(self, zero_terminal_snr: bool) -> DDPM:
        return DDPM.stable_diffusion(self.prediction_type, zero_terminal_snr)

    def modelspec_facts(self) -> ModelFacts:
        return sdxl_facts(v_parameterization=self.v_parameterization)

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
        """See Family.load. Raises ValueError for a model of another kind, or a file that cannot be read.

        Only a VAE from a file of its own costs the reference random draws here.
        """
        vae_loader = VaeLoader(
            vae, self.latents.scaling_factor, SAMPLE_SIZE, own_draws_count=False, dtype=vae_dtype or dtype, device=device
        )
        if is_single_file(path):
            models = self._from_file(open_checkpoint(path, disable_mmap), vae_loader, dtype, device, parts)
        else:
            models = self._from_folder(path, vae_loader, dtype, device, parts)
        return modes.freeze(models)

    def _from_file(self, checkpoint: Checkpoint, vae_loader: VaeLoader, dtype, device, parts: Container[str]) -> Models:
        require_kind(kind_of_tensors(checkpoint.shapes), SDXL_KIND, checkpoint.path)
        models = Models()
        if UNET in parts:
            part = checkpoint.part(UNET_PREFIX)
            models.unet = empty_unet(part, heads=None, linear_projection=True, sample_size=SAMPLE_SIZE)
            require_kind(kind_of_unet_config(models.unet.config), SDXL_KIND, checkpoint.path)
            fill_unet(models.unet, part, dtype=dtype, device=device)
        if TEXT_ENCODERS in parts:
            first = clip_text_encoder(checkpoint.part(TEXT_ENCODER_1_PREFIX), dtype=dtype, device=device)
            part = checkpoint.part(TEXT_ENCODER_2_PREFIX)
            second = openclip_text_encoder(
                part, keep_last_layer=True, projection=True, transpose_projection=self.transpose_text_projection, dtype=dtype, device=device
            )
            models.text_encoders = [first, second]
            models.logit_scale = part.read("logit_scale").clone() if "logit_scale" in part.shapes else None
        if VAE in parts:
            models.vae, models.swallowed_draws = vae_loader.of_file(checkpoint)
        return models

    def _from_folder(self, path: str, vae_loader: VaeLoader, dtype, device, parts: Container[str]) -> Models:
        require_kind(kind_of_unet_config(part_config(path, "unet")), SDXL_KIND, path)
        models = Models()
        if UNET in parts:
            models.unet = load_part(UNet2DConditionModel, path, "unet", dtype=dtype, device=device)
        if TEXT_ENCODERS in parts:
            kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
            models.text_encoders = [load_part(kind, path, name, dtype=dtype, device=device) for name, kind in kinds.items()]
        if VAE in parts:
            models.vae, models.swallowed_draws = vae_loader.of_folder(path)
        return models

    # --- text ---

    @cached_property
    def tokenizers(self) -> tuple[ClipTokenizer, ClipTokenizer]:
        return load_tokenizer(CLIP_L, self.tokenizer_cache_dir), load_tokenizer(OPENCLIP_BIGG, self.tokenizer_cache_dir)

    def tokenize(self, captions: list[str]) -> list[Tensor]:
        tokens = text.token_count(self.max_token_length)
        return [text.token_chunks(captions, tokenizer, tokens) for tokenizer in self.tokenizers]

    def tokenize_weighted(self, captions: list[str], tokens: int | None = None) -> tuple[list[Tensor], list[Tensor]]:
        tokens = tokens or text.token_count(self.max_token_length)
        ids, weights = zip(*(text.weighted_token_chunks(captions, tokenizer, tokens) for tokenizer in self.tokenizers), strict=True)
        return list(ids), list(weights)

    def encode_text(
        self,
        text_encoders: list[nn.Module],
        input_ids: list[Tensor],
        token_weights: list[Tensor] | None = None,
        restore_mean: bool = False,
    ) -> dict[str, Tensor]:
        """prompt_embeds: both encoders' states side by side. pooled_prompt_embeds: of the second encoder's first chunk."""
        chunks = input_ids[0].shape[1]
        weights = token_weights or (None, None)
        layers_1, _ = text.hidden_states(text_encoders[0], input_ids[0])
        layers_2, last = text.hidden_states(text_encoders[1], input_ids[1])
        states_1 = text.weighted(text.joined(layers_1[TEXT_LAYER_1], chunks), weights[0], restore_mean)
        states_2 = text.weighted(text.joined(layers_2[TEXT_LAYER_2], chunks), weights[1], restore_mean)
        pooled = text.pooled_states(text_encoders[1], last[::chunks], input_ids[1][:, 0], self.tokenizers[1].end_id)
        return {"prompt_embeds": torch.cat([states_1, states_2], dim=-1), "pooled_prompt_embeds": pooled}

    # --- images ---

    def encode_images(self, vae_model: nn.Module, pixels: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        return vae.encode_images(vae_model, pixels, seeds)

    def predict(
        self, unet: nn.Module, noisy_latents: Tensor, timesteps: Tensor, text_states: dict[str, Tensor], sizes: dict[str, Tensor]
    ) -> Tensor:
        """The sizes stay in fp32 up to their embedding: half precision cannot tell 1023 from 1024."""
        size_ids = [sizes["original_sizes_hw"], sizes["crop_top_lefts"], sizes["target_sizes_hw"]]
        conditions = {
            "text_embeds": text_states["pooled_prompt_embeds"],
            "time_ids": torch.cat(size_ids, dim=1).to(noisy_latents.device, torch.float32),
        }
        return unet(noisy_latents, timesteps, encoder_hidden_states=text_states["prompt_embeds"], added_cond_kwargs=conditions).sample

    # --- networks ---

    def text_encoder_for_network(self, models: Models) -> list[nn.Module]:
        return list(models.text_encoders)

    def view_for_network(self, models: Models) -> tuple[list[nn.Module], nn.Module]:
        return models_view(models.unet, models.text_encoders, original_layout=True)

    def enable_gradient_checkpointing(self, models: Models, *, train_text_encoders: bool) -> None:
        modes.enable_gradient_checkpointing(models, train_text_encoders=train_text_encoders)
