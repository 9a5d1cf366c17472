"""What to say when memory runs out: what was being done, how much was in use, and which options would lower it."""

import traceback
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import torch

# Function on the stack -> what it does. The deepest one of the stack is told.
WORK = {
    "load_models": "loading the models",
    "cache_latents": "caching latents",
    "cache_text_outputs": "caching text encoder outputs",
    "build": "making the network and its optimizer",
    "place_models": "moving the models to the device",
    "scaled_latents": "encoding a batch of images (VAE)",
    "encode_captions": "encoding captions",
    "predict": "the U-Net's forward pass",
    "backward": "the backward pass",
    "update": "the optimizer's update",
    "after_epoch": "a save, a preview or validation",
    "after_step": "a save, a preview or validation",
    "at_start": "the first previews",
}
DEVICE_FAULTS = ("CUDA error", "cuBLAS error", "cuDNN error", "CUBLAS_STATUS", "CUDNN_STATUS")  # what torch says of a GPU that gave up
HOST_SHORTAGE = ("can't allocate memory", "not enough memory")  # what torch's CPU allocator says
PINNED_SHORTAGE = "CUDA error: out of memory"  # of main memory that a GPU reads directly


class DeviceFault(ValueError):
    """The GPU or its driver failed."""


class OutOfMemory(ValueError):
    """The device or the machine has too little memory for these options."""


@contextmanager
def memory_shortage_explained(args: Namespace) -> Iterator[None]:
    """Turns running out of memory in the body into OutOfMemory with advice for `args`; other exceptions pass."""
    try:
        yield
    except torch.OutOfMemoryError as fault:
        peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 2**30 if torch.cuda.is_available() else 0
        used = f"this run had up to {peak:.1f} GiB of the GPU's {total:.1f} GiB in use"
        raise OutOfMemory(explanation("GPU memory", used, fault.__traceback__, args)) from fault
    except (MemoryError, RuntimeError) as fault:
        pinned = PINNED_SHORTAGE in str(fault)
        if not pinned and any(words in str(fault) for words in DEVICE_FAULTS):
            raise DeviceFault(device_fault(fault)) from fault
        if not pinned and not isinstance(fault, MemoryError) and not any(words in str(fault) for words in HOST_SHORTAGE):
            raise
        raise OutOfMemory(explanation("main memory", str(fault).splitlines()[0], fault.__traceback__, args)) from fault


def device_fault(fault: BaseException) -> str:
    """The message: what was being done, what the driver said, and how to see more."""
    return (
        f"the GPU failed during {work_of(fault.__traceback__)}: {str(fault).splitlines()[0]}. What was saved before is whole: go on with "
        "--resume. If it comes back, update the driver, leave overclocking off, and run with CUDA_LAUNCH_BLOCKING=1 in the environment, "
        "which shows the place"
    )


def work_of(trace: TracebackType | None) -> str:
    """What was being done, from the deepest function known here."""
    names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(trace)]
    return next((WORK[name] for name in reversed(names) if name in WORK), "training")


def explanation(memory: str, used: str, trace: TracebackType | None, args: Namespace) -> str:
    """The message: what was being done, what was in use, and each option that would help, those that cost least time first."""
    advice = savings(args)
    lines = [f"{memory} ran out during {work_of(trace)}: {used}."]
    if advice:
        lines += ["Options that lower it, those that cost least time first:", *(f"  {line}" for line in advice)]
    else:
        lines.append("Every option that lowers it is in use already: take a smaller --resolution or a smaller --network_dim")
    return "\n".join([*lines, "What was saved before is whole; other programs that use the GPU count too."])


def savings(args: Namespace) -> list[str]:
    """The options not in use yet that lower memory, cheapest first."""
    half = args.mixed_precision in ("fp16", "bf16")
    both_frozen = args.network_train_unet_only and hasattr(args, "cache_text_encoder_outputs")
    small_states = any(word in args.optimizer_type.lower() for word in ("8bit", "adafactor", "lion", "sgd")) or args.use_8bit_adam
    possible = [
        (not args.cache_latents and not args.random_crop and not args.color_aug, "--cache_latents: the VAE leaves the GPU"),
        (both_frozen and not args.cache_text_encoder_outputs, "--cache_text_encoder_outputs: the text encoders leave the GPU"),
        (not half, "--mixed_precision bf16 (fp16 on cards before RTX 30): half the size, and faster"),
        (not (args.sdpa or args.xformers or args.mem_eff_attn), "--sdpa: attention without its score matrix"),
        (args.vae_batch_size > 1, "--vae_batch_size 1: while latents are cached"),
        (not small_states, "--optimizer_type AdamW8bit: a quarter of the optimizer's state"),
        (not args.network_train_unet_only, "--network_train_unet_only: the text encoders need no gradients"),
        (args.gradient_checkpointing is not True, "--gradient_checkpointing: most activations are computed again, about a quarter slower"),
        (args.train_batch_size > 1, f"--train_batch_size 1 --gradient_accumulation_steps {args.train_batch_size}: same updates, slower"),
        (not args.fp8_base, "--fp8_base: the frozen models in 8 bits"),
    ]
    return [text for fits, text in possible if fits]
