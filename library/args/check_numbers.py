"""Numbers outside the range in which they mean anything, and texts that should hold numbers."""

from argparse import Namespace
from collections.abc import Iterator
from math import inf, isfinite

# Smallest and largest value that make sense; an option that is not given is never out of range.
RANGES = {
    "train_batch_size": (1, inf),
    "gradient_accumulation_steps": (1, inf),
    "max_train_epochs": (1, inf),
    "vae_batch_size": (1, inf),
    "dataset_repeats": (1, inf),
    "max_data_loader_n_workers": (0, inf),
    "seed": (0, 2**32 - 1),
    "initial_epoch": (1, inf),
    "initial_step": (0, inf),
    "clip_skip": (1, inf),
    "network_dim": (1, inf),
    "network_dropout": (0, 1),
    "scale_weight_norms": (0, inf),
    "learning_rate": (0, 10000),
    "unet_lr": (0, 10000),
    "text_encoder_lr": (0, 10000),
    "max_grad_norm": (0, inf),
    "nan_guard_patience": (1, inf),
    "lr_warmup_steps": (0, inf),
    "lr_decay_steps": (0, inf),
    "lr_scheduler_min_lr_ratio": (0, 1),
    "save_every_n_epochs": (1, inf),
    "save_every_n_steps": (1, inf),
    "save_n_epoch_ratio": (0, inf),
    "save_last_n_epochs": (1, inf),
    "save_last_n_steps": (1, inf),
    "validate_every_n_epochs": (1, inf),
    "validate_every_n_steps": (1, inf),
    "max_validation_steps": (1, inf),
    "keep_tokens": (0, inf),
    "caption_dropout_rate": (0, 1),
    "caption_tag_dropout_rate": (0, 1),
    "caption_dropout_every_n_epochs": (0, inf),
    "token_warmup_step": (0, inf),
    "min_bucket_reso": (1, inf),
    "max_bucket_reso": (1, inf),
    "bucket_reso_steps": (1, inf),
    "prior_loss_weight": (0, inf),
    "multires_noise_iterations": (0, inf),
    "min_snr_gamma": (0, inf),
    "min_timestep": (0, 999),
    "max_timestep": (1, 1000),
    "ddp_timeout": (0, inf),
    "blocks_to_swap": (0, inf),
}


def range_problems(args: Namespace, script: str) -> Iterator[str]:
    for name, (smallest, largest) in RANGES.items():
        given = getattr(args, name)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and not smallest <= value <= largest:
                yield f"--{name} {value}: give {f'{smallest} or more' if largest == inf else f'a value from {smallest} to {largest}'}"
    for name, given in vars(args).items():
        values = [value for value in (given if isinstance(given, list) else [given]) if isinstance(value, float)]
        if name not in RANGES and not all(map(isfinite, values)):
            yield f"--{name} {given}: give a number that is finite"
    if args.network_alpha is not None and args.network_alpha < 0:
        yield f"--network_alpha {args.network_alpha}: give a number above 0, such as half of --network_dim"
    if args.loss_type in ("huber", "smooth_l1") and args.huber_c <= 0:
        yield f"--huber_c {args.huber_c}: give a number above 0, such as 0.1"
    if args.max_train_epochs is None and args.max_train_steps < 1:
        yield f"--max_train_steps {args.max_train_steps}: give 1 or more, or the number of passes with --max_train_epochs"


def timestep_problems(args: Namespace, script: str) -> Iterator[str]:
    low = 0 if args.min_timestep is None else args.min_timestep
    high = 1000 if args.max_timestep is None else args.max_timestep
    if low > high:
        yield f"--min_timestep {low} is above --max_timestep {high}: give the lower one first"


def size_problems(args: Namespace, script: str) -> Iterator[str]:
    for name in ("resolution", "skip_image_resolution"):
        if getattr(args, name) is not None:
            try:
                resolution(getattr(args, name))
            except ValueError as error:
                yield f"--{name} {getattr(args, name)}: {error}"
    if args.face_crop_aug_range is not None:
        try:
            face_crop_aug_range(args.face_crop_aug_range)
        except ValueError as error:
            yield f"--face_crop_aug_range {args.face_crop_aug_range}: {error}"


def resolution(text: str) -> tuple[int, int]:
    """(width, height) in pixels from "512" or "512,768", width first. Raises ValueError for anything else."""
    try:
        sides = [int(side) for side in text.split(",")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise ValueError("give one number of pixels, such as 512, or width,height, such as 768,512")
    return sides[0], sides[-1]


def face_crop_aug_range(text: str) -> tuple[float, float]:
    """(lowest, highest) factor from "2.0,4.0". Raises ValueError for anything else."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if low > high:
        raise ValueError("give two factors, the lower one first, such as 2.0,4.0")
    return low, high
