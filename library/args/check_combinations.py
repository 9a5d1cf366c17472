"""Options that contradict each other, and options that have no effect beside others."""

import logging
from argparse import Namespace
from collections.abc import Iterator

from library.args.normalise import BUCKET_STEPS

logger = logging.getLogger(__name__)


def precision_problems(args: Namespace, script: str) -> Iterator[str]:
    for kind in ("fp16", "bf16"):
        if getattr(args, f"full_{kind}") and args.mixed_precision != kind:
            yield f"--full_{kind} needs --mixed_precision {kind}, but that is {args.mixed_precision}: change it, or leave --full_{kind} out"
    for name in ("fp8_base", "fp8_base_unet"):
        if getattr(args, name) and args.mixed_precision == "no":
            yield f"--{name} needs mixed precision: add --mixed_precision bf16 or fp16"


def noise_problems(args: Namespace, script: str) -> Iterator[str]:
    if args.adaptive_noise_scale is not None and args.noise_offset is None:
        yield f"--adaptive_noise_scale {args.adaptive_noise_scale} adds to --noise_offset, which is missing: give both or neither"
    if args.scale_v_pred_loss_like_noise_pred and not args.v_parameterization:
        yield "--scale_v_pred_loss_like_noise_pred is for v-prediction models: add --v_parameterization, or leave it out"
    if args.v_pred_like_loss is not None and args.v_parameterization:
        yield f"--v_pred_like_loss {args.v_pred_like_loss} is for noise prediction: leave out that or --v_parameterization"
    if args.zero_terminal_snr and not args.v_parameterization:
        logger.warning("--zero_terminal_snr is made for v-prediction models; with noise prediction results may be unexpected")


def cache_problems(args: Namespace, script: str) -> Iterator[str]:
    if args.dataset_config is not None or not args.cache_latents:
        return
    for name in ("color_aug", "random_crop"):
        if getattr(args, name):
            yield f"--cache_latents fixes each image once, --{name} changes it at every step: leave one of them out"


def caption_variant_problems(args: Namespace, script: str) -> Iterator[str]:
    count = args.text_encoder_cache_variants
    if count is None:
        return
    if count < 1:
        yield f"--text_encoder_cache_variants {count}: give the number of variants of each caption, such as 8, or leave it out"
    if not args.network_train_unet_only:
        yield f"--text_encoder_cache_variants {count} cannot train the text encoder: add --network_train_unet_only, or leave it out"
    if args.dataset_config is None and args.token_warmup_step:
        yield f"--text_encoder_cache_variants {count} cannot follow --token_warmup_step {args.token_warmup_step}: leave one of them out"


def bucket_problems(args: Namespace, script: str) -> Iterator[str]:
    step = BUCKET_STEPS[script]
    if args.enable_bucket and args.bucket_reso_steps % step:
        yield f"--bucket_reso_steps {args.bucket_reso_steps}: this model needs a multiple of {step}, such as {step}"
    if args.enable_bucket and args.min_bucket_reso > args.max_bucket_reso:
        yield f"--min_bucket_reso {args.min_bucket_reso} is above --max_bucket_reso {args.max_bucket_reso}: give the lower one first"


def network_part_problems(args: Namespace, script: str) -> Iterator[str]:
    if args.network_train_unet_only and args.network_train_text_encoder_only:
        yield "--network_train_unet_only and --network_train_text_encoder_only together leave nothing to train: leave one or both out"
    if args.network_train_unet_only and args.text_encoder_lr:
        logger.warning("--text_encoder_lr has no effect: --network_train_unet_only leaves the text encoders alone")
    if args.network_train_text_encoder_only and args.unet_lr is not None:
        logger.warning("--unet_lr has no effect: --network_train_text_encoder_only leaves the U-Net alone")


def family_problems(args: Namespace, script: str) -> Iterator[str]:
    if script != "sdxl_train_network":
        if args.v2 and (args.clip_skip or 1) > 1:
            logger.warning("--clip_skip %d is unusual with --v2: SD 2.x models are made for their own last layer", args.clip_skip)
        return
    if args.v2:
        yield "--v2 is for Stable Diffusion 2.x and sdxl_train_network.py for SDXL: leave --v2 out, or use train_network.py"
    if (args.clip_skip or 1) > 1:
        logger.warning("--clip_skip %d has no effect: SDXL always uses its own layers", args.clip_skip)
    if args.cache_text_encoder_outputs:
        yield from _cached_caption_problems(args)


def _cached_caption_problems(args: Namespace) -> Iterator[str]:
    changing = ("shuffle_caption", "caption_dropout_rate", "caption_tag_dropout_rate", "token_warmup_step")
    for name in changing if args.text_encoder_cache_variants is None else ():
        if args.dataset_config is None and getattr(args, name):
            way_out = "" if name == "token_warmup_step" else ", or add --text_encoder_cache_variants 8 to cache several of each"
            yield f"--cache_text_encoder_outputs fixes each caption once, --{name} changes it at every step: leave one out{way_out}"
    if not args.network_train_unet_only:
        yield "--cache_text_encoder_outputs cannot train the text encoders: add --network_train_unet_only, or leave it out"


def warn_of_masks_that_are_missing(args: Namespace) -> None:
    if args.masked_loss and args.dataset_config is None and not args.alpha_mask:
        logger.warning(
            "--masked_loss finds no masks: add --alpha_mask, or describe the data in a --dataset_config "
            "whose subsets have a conditioning_data_dir"
        )
