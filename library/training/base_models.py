"""The frozen models of a run: loaded, cast, placed, and their latents cached."""

import hashlib
import logging
import zlib
from argparse import Namespace
from collections.abc import Container

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from library.data.latent_cache import cache_latents as cache_group
from library.kernels.attention import set_attention
from library.kernels.frozen_conv import own_frozen_convolutions
from library.kernels.layout import layout_for, own_layout
from library.kernels.pointwise import Pointwise, kernels_for
from library.kernels.recompute import CheapOutputs
from library.kernels.unet_pointwise import own_pointwise
from library.models.devices import clear_device_cache
from library.models.diffusers_folder import quiet_libraries
from library.models.family import PARTS, Family, Models
from library.models.stored_weights import move_stored
from library.models.swallow import swallow
from library.training.accelerator import one_process_after_another
from library.training.adapter import NetworkSettings
from library.training.datasets import RunData, drop_bad_images
from library.training.memory import (
    SELECTIVE,
    blocks_to_compile,
    compile_blocks,
    offload_checkpoints,
    slice_vae,
    tell_of_switches_without_effect,
)
from library.training.precision import DTYPES
from library.training.sharding import Sharding, spread
from library.training.vae_batches import EncodeInParts, vae_batch_size

logger = logging.getLogger(__name__)


def load_models(args: Namespace, family: Family, accelerator: Accelerator, parts: Container[str] = PARTS) -> Models:
    """Loads the base model straight to its dtype, and to the device with --lowram; sets how its attention and norms are computed.

    parts: see Family.load. strict_compat loads them all, and then advances torch's CPU generator by what the reference draws
    while it builds its models.
    """
    models = one_process_after_another(
        accelerator,
        lambda: family.load(
            args.pretrained_model_name_or_path,
            vae=args.vae,
            dtype=DTYPES[args.mixed_precision],
            vae_dtype=vae_dtype(args),
            device=accelerator.device if args.lowram else "cpu",
            disable_mmap=getattr(args, "disable_mmap_load_safetensors", False),
            parts=PARTS if args.strict_compat else parts,
        ),
    )
    if models.unet is not None:
        set_operations(args, models, accelerator)
    if models.vae is not None:
        slice_vae(args, models.vae)
    tell_of_switches_without_effect(args)
    if args.strict_compat:
        swallow(models.swallowed_draws)
    return models


def set_operations(args: Namespace, models: Models, accelerator: Accelerator) -> None:
    """How the U-Net computes attention, norms and gates, and which of them --gradient_checkpointing selective computes twice."""
    set_attention(
        models.unet,
        models.vae,
        sdpa=args.sdpa,
        xformers=args.xformers,
        mem_eff_attn=args.mem_eff_attn,
        attention=args.attention,
        device=accelerator.device,
    )
    cheap = CheapOutputs() if args.gradient_checkpointing == SELECTIVE else None
    fused = kernels_for(accelerator.device, DTYPES[args.mixed_precision])
    own_pointwise(models.unet, Pointwise(fused, cheap), blocks_to_compile(args, models))
    models.norms_keep_layout = fused or args.torch_compile
    if cheap is not None:
        cheap.keeping_recipes(models.unet)


def vae_dtype(args: Namespace) -> torch.dtype:
    """fp32 with --no_half_vae, else the training precision."""
    return torch.float32 if args.no_half_vae else DTYPES[args.mixed_precision]


def weights_identity(module: nn.Module) -> str:
    """A short name for a module's weights, the same whatever precision they were loaded in: caches made by other weights are stale."""
    digest = hashlib.sha256()
    for tensor in (*list(module.parameters())[:4], *list(module.parameters())[-4:]):
        digest.update(tensor.detach().cpu().to(torch.bfloat16).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def place(module: nn.Module, device: torch.device | str, dtype: torch.dtype) -> None:
    """Moves and casts a model, without diffusers' warning about modules it would rather keep in fp32 (there are none here)."""
    with quiet_libraries():
        module.to(device, dtype)


def place_text_encoder(text_encoder: nn.Module, device: torch.device | str, dtype: torch.dtype) -> None:
    """The same for a text encoder, whose weights in 8 bit go along; those of a U-Net may have been put elsewhere on purpose."""
    place(text_encoder, device, dtype)
    move_stored(text_encoder, device, dtype)


def cache_latents(data: RunData, args: Namespace, family: Family, models: Models, accelerator: Accelerator) -> None:
    """Fills the data sets' latent caches if --cache_latents asks for it; the VAE leaves the device afterwards.

    The samples that are drawn depend on the images alone and leave torch's generator as it is: a cache that was filled in two goes,
    or by an earlier run, gives the same training as a new one. With strict_compat they come from torch's generator.
    Images that cannot be decoded are left out of the data with --skip_bad_images. Raises ValueError naming them all without it.
    """
    if not args.cache_latents and not args.cache_latents_to_disk:
        return
    dtype, identity = vae_dtype(args), weights_identity(models.vae.encoder)
    place(models.vae, accelerator.device, dtype)

    @torch.no_grad()
    def encode(pixels: Tensor) -> Tensor:
        seeds = None if args.strict_compat else [content_seed(image) for image in pixels]
        return family.encode_images(models.vae, pixels.to(accelerator.device, dtype), seeds).cpu()

    groups = data.groups
    largest = max(group.largest_bucket for group in groups)
    at_once = vae_batch_size(args.vae_batch_size, largest, dtype, accelerator.device, strict_compat=args.strict_compat)
    encode_in_parts = EncodeInParts(encode, at_once)
    bad: dict[str, str] = {}
    for group in groups:
        bad |= cache_group(
            group,
            encode_in_parts,
            to_disk=args.cache_latents_to_disk,
            suffix=family.latents.cache_suffix,
            batch_size=at_once,
            skip_check=args.skip_cache_check,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            vae_id=identity,
        )
    models.vae.to("cpu")
    clear_device_cache(accelerator.device)
    accelerator.wait_for_everyone()
    drop_bad_images(groups, _of_all_processes(bad, accelerator), skip=args.skip_bad_images)


def content_seed(image: Tensor) -> int:
    """A seed that follows from an image (3, H, W) on the CPU: from each eighth pixel of each eighth row."""
    return zlib.crc32(image[:, ::8, ::8].contiguous().numpy().tobytes())


def _of_all_processes(bad: dict[str, str], accelerator: Accelerator) -> dict[str, str]:
    """The bad images that any process found: each may have decoded only its share."""
    return dict(gather_object(list(bad.items()))) if accelerator.num_processes > 1 else bad


def place_models(
    args: Namespace,
    family: Family,
    models: Models,
    accelerator: Accelerator,
    settings: NetworkSettings,
    sharding: Sharding | None,
    *,
    text_cached: bool,
) -> None:
    """Freezes, casts and places the base models, and sets their modes.

    text_cached: the step needs no text encoder, so they wait on the CPU in fp32 for whoever draws previews. With whole
    blocks checkpointed the models are in train mode, as checkpointing acts only there; the text encoders checkpoint only if
    they are trained.
    """
    dtype = DTYPES[args.mixed_precision]
    in_blocks = bool(args.gradient_checkpointing) and args.gradient_checkpointing != SELECTIVE
    for module in (models.unet, *models.text_encoders):
        module.requires_grad_(False)
        module.train(in_blocks)
    if sharding is not None:
        spread(models.unet, dtype, accelerator, sharding)
    else:
        place(models.unet, accelerator.device, dtype)
        own_layout(models.unet, layout_for(accelerator.device, dtype, norms_follow=models.norms_keep_layout))
    for text_encoder in models.text_encoders:
        place_text_encoder(text_encoder, *(("cpu", torch.float32) if text_cached else (accelerator.device, dtype)))
    if text_cached:
        clear_device_cache(accelerator.device)
    own_frozen_convolutions(models.unet, blocks_to_compile(args, models))
    if in_blocks:
        family.enable_gradient_checkpointing(models, train_text_encoders=settings.train_text_encoder)
    offload_checkpoints(args, models, accelerator.device)
    compile_blocks(args, models, accelerator.device)
    models.vae.requires_grad_(False)
    models.vae.eval()
    if not args.cache_latents and not args.cache_latents_to_disk:
        place(models.vae, accelerator.device, vae_dtype(args))
