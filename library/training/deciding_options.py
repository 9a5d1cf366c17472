"""The options that decide what a run learns: a state keeps their values, and a run that goes on with others is told so. Without torch."""

import json
from argparse import Namespace
from typing import Any

from library.saving.state_record import RunRecord

DECIDING = (
    "strict_compat", "train_batch_size", "gradient_accumulation_steps", "resolution", "network_module", "network_dim", "network_alpha",
    "network_dropout", "network_args", "network_train_unet_only", "network_train_text_encoder_only", "scale_weight_norms",
    "optimizer_args", "lr_scheduler", "lr_scheduler_type", "lr_scheduler_args", "lr_warmup_steps", "lr_decay_steps",
    "lr_scheduler_num_cycles", "lr_scheduler_power", "lr_scheduler_min_lr_ratio", "max_grad_norm", "mixed_precision", "full_fp16",
    "full_bf16", "clip_skip", "max_token_length", "weighted_captions", "v_parameterization", "zero_terminal_snr", "noise_offset",
    "noise_offset_random_strength", "adaptive_noise_scale", "multires_noise_iterations", "multires_noise_discount", "ip_noise_gamma",
    "ip_noise_gamma_random_strength", "min_timestep", "max_timestep", "loss_type", "huber_schedule", "huber_c", "huber_scale",
    "min_snr_gamma", "debiased_estimation_loss", "scale_v_pred_loss_like_noise_pred", "v_pred_like_loss", "masked_loss", "alpha_mask",
    "prior_loss_weight", "cache_latents", "enable_bucket", "bucket_no_upscale", "bucket_reso_steps", "min_bucket_reso",
    "max_bucket_reso", "random_crop", "flip_aug", "color_aug", "face_crop_aug_range", "shuffle_caption", "keep_tokens",
    "caption_dropout_rate", "caption_dropout_every_n_epochs", "caption_tag_dropout_rate", "token_warmup_min", "token_warmup_step",
)  # fmt: skip
"""Options that change what a run learns from here on: a resumed run that has others is told so."""


def deciding_options(args: Namespace) -> dict[str, Any]:
    """Their values as they come back from a JSON file."""
    return json.loads(json.dumps({name: getattr(args, name, None) for name in DECIDING}, default=str))


def changed_options(record: RunRecord | None, args: Namespace) -> list[str]:
    """"name: value there, value here" for each that differs from the saved run's; nothing for other programs' states."""
    if record is None:
        return []
    here, there = deciding_options(args), record.options
    return [f"{name}: {there[name]} there, {value} here" for name, value in here.items() if name in there and there[name] != value]
