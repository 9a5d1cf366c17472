"""Options that trade time for memory, or compile time for speed: where the frozen models lie, in how many bits, and how they run."""

import functools
import importlib.util
import logging
import os
from argparse import Namespace

import torch
from accelerate import Accelerator
from torch import nn
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from torch.autograd.graph import save_on_cpu

from library.files import cache_folder
from library.models.family import Models
from library.models.stored_weights import store_weights
from library.models.unet_blocks import largest_blocks, unet_blocks

logger = logging.getLogger(__name__)

# Small layers at both ends of the U-Net, where rounding shows most. They also tell others the dtype that the model works in.
KEPT_IN_FULL = ("conv_in", "conv_out", "time_embedding", "add_embedding")
SELECTIVE = "selective"  # --gradient_checkpointing of norms and gates alone
COMPILED_AT = "TORCHINDUCTOR_CACHE_DIR"
COMPILED_VARIANTS = 64  # how many shapes and settings of a block are compiled before torch falls back


def store_frozen_weights(args: Namespace, models: Models, accelerator: Accelerator) -> None:
    """Acts on --fp8_base, --fp8_base_unet and --blocks_to_swap, before adapters are put around the layers.

    strict_compat: 8 bit as the reference has it, all layers and no scale.
    """
    device = accelerator.device
    if args.fp8_base or args.fp8_base_unet:
        skip = () if args.strict_compat else KEPT_IN_FULL
        parts = [(models.unet, skip)]
        if args.fp8_base:
            parts += [(text_encoder, ()) for text_encoder in models.text_encoders]
        scaled = not args.strict_compat
        size = sum(store_weights(part, lambda weight: weight.at(device).in_8_bit(scaled=scaled), skip) for part, skip in parts)
        logger.info("frozen weights in 8 bit: %s, %.0f MB", "U-Net and text encoders" if args.fp8_base else "U-Net", size / 2**20)
    if args.blocks_to_swap:
        swap_blocks(models.unet, args.blocks_to_swap, device)


def slice_vae(args: Namespace, vae: nn.Module) -> None:
    """Acts on --vae_slicing and --vae_tiling, for encoding and for previews."""
    if args.vae_slicing:
        vae.enable_slicing()
    if args.vae_tiling:
        vae.enable_tiling()


def swap_blocks(unet: nn.Module, count: int, device: torch.device) -> None:
    """The weights of the `count` largest blocks stay in main memory. Raises ValueError if the U-Net has fewer blocks."""
    blocks = largest_blocks(unet, count)
    if device.type == "cpu":
        logger.warning("--blocks_to_swap %d has no effect: the device is the CPU, its memory is the main memory already", count)
        return
    size = sum(store_weights(block, lambda weight: weight.at("cpu", pinned=device.type == "cuda")) for block in blocks)
    logger.info("%d of %d U-Net blocks stay in main memory: %.0f MB", count, len(unet_blocks(unet)), size / 2**20)


def offload_saved_tensors(module: nn.Module, *, pinned: bool) -> None:
    """What `module` keeps for its backward pass waits in main memory; with checkpoints that is little but their inputs."""
    forward = module.forward

    @functools.wraps(forward)
    def offloaded(*inputs, **named):
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        with save_on_cpu(pin_memory=pinned):
            return forward(*inputs, **named)

    module.forward = offloaded


def tell_of_switches_without_effect(args: Namespace) -> None:
    """Options for other ways of working than ours, where they change nothing."""
    if args.highvram:
        logger.info("--highvram changes nothing: GPU memory is never emptied between batches here")
    for name in ("ddp_gradient_as_bucket_view", "ddp_static_graph"):
        if getattr(args, name):
            logger.info("--%s changes nothing: gradients are exchanged in one message, without DistributedDataParallel", name)


def offload_checkpoints(args: Namespace, models: Models, device: torch.device) -> None:
    """Acts on --cpu_offload_checkpointing, or says why it cannot."""
    if not args.cpu_offload_checkpointing:
        return
    if not args.gradient_checkpointing:
        logger.warning("--cpu_offload_checkpointing has no effect without --gradient_checkpointing: there are no checkpoints to move")
    elif args.gradient_checkpointing == SELECTIVE:
        logger.warning("--cpu_offload_checkpointing has no effect with --gradient_checkpointing selective: leave 'selective' out")
    elif device.type == "cpu":
        logger.warning("--cpu_offload_checkpointing has no effect: the device is the CPU, its memory is the main memory already")
    else:
        offload_saved_tensors(models.unet, pinned=device.type == "cuda")


def blocks_to_compile(args: Namespace, models: Models) -> list[nn.Module]:
    """Those that --torch_compile is about, none without it."""
    return unet_blocks(models.unet) if args.torch_compile else []


def compile_blocks(args: Namespace, models: Models, device: torch.device) -> None:
    """Acts on --torch_compile: each block of the U-Net for itself, so blocks of one shape are compiled once.

    Raises ValueError for a --dynamo_backend that this installation does not have.
    """
    if not args.torch_compile:
        return
    if args.gradient_checkpointing == SELECTIVE:
        logger.warning("--gradient_checkpointing selective has little effect with --torch_compile, which chooses by itself what it keeps")
    check_backend(args.dynamo_backend, device)
    keep_compiled()
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILED_VARIANTS)
    blocks = blocks_to_compile(args, models)
    for block in blocks:
        block.compile(backend=args.dynamo_backend)
    logger.info("--torch_compile: the first steps are slow while %d blocks are compiled with %s", len(blocks), args.dynamo_backend)


def keep_compiled() -> None:
    """Lets inductor find what an earlier run has compiled, on systems too that empty their folder for temporary files.

    Nothing is changed where the user names a folder, or where none can be made. torch itself sets the variable when it is imported.
    """
    if os.environ.get(COMPILED_AT, default_cache_dir()) != default_cache_dir():
        return
    folder = cache_folder() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        os.environ[COMPILED_AT] = str(folder)


def check_backend(backend: str, device: torch.device) -> None:
    """Raises ValueError if torch here has no such compiler, or lacks what it needs."""
    known = torch._dynamo.list_backends(exclude_tags=())
    if backend not in known:
        raise ValueError(f"--dynamo_backend {backend}: this torch has {', '.join(known)}; inductor is usual")
    if backend == "inductor" and device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ValueError(
            "--torch_compile with --dynamo_backend inductor needs the package triton: pip install triton (on Windows triton-windows), "
            "or leave --torch_compile out"
        )
