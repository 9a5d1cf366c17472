"""What options mean that say it in an old, a doubled or a half way. Each change that matters is told in one line."""

import logging
from argparse import Namespace
from collections.abc import Collection

from library.args.names import KEY_VALUE_LISTS, needs_no_schedule, sets_its_own_rate

logger = logging.getLogger(__name__)

# Paths and names of which an empty text can mean nothing: --reg_data_dir="" is how some scripts say "none".
EMPTY_MEANS_NONE = (
    "pretrained_model_name_or_path",
    "tokenizer_cache_dir",
    "vae",
    "train_data_dir",
    "reg_data_dir",
    "in_json",
    "dataset_class",
    "conditioning_data_dir",
    "resolution",
    "skip_image_resolution",
    "face_crop_aug_range",
    "caption_extention",
    "output_dir",
    "output_name",
    "resume",
    "network_module",
    "network_weights",
    "sample_prompts",
    "logging_dir",
    "log_prefix",
    "log_tracker_name",
    "log_tracker_config",
    "wandb_run_name",
    "wandb_api_key",
    "console_log_file",
    "huggingface_repo_id",
    "huggingface_repo_type",
    "huggingface_path_in_repo",
    "huggingface_token",
    "config_file",
)
EMPTY_LIST_MEANS_NONE = ("text_encoder_lr", "base_weights", "base_weights_multiplier")
BUCKET_STEPS = {"train_network": 64, "sdxl_train_network": 32}


def normalise(args: Namespace, script: str, typed: Collection[str] = ()) -> None:
    """Puts every option of `args` into the one form the rest of the suite reads.

    typed: names of the options that stand on the command line itself. What a config file filled in by the kohya_ss GUI says
    against another option is dropped with a warning; the same typed by hand is left for the checks to refuse.
    """
    _empty_values(args)
    _literal_quotes(args)
    if args.caption_extention is not None:
        args.caption_extension, args.caption_extention = args.caption_extention, None
    _implied_options(args)
    if args.nan_guard is None:
        args.nan_guard = "off" if args.strict_compat else "skip"
    _pointless_values(args)
    _bucket_steps(args, BUCKET_STEPS[script])
    _warmup(args, typed_by_hand="lr_warmup_steps" in typed)


def _empty_values(args: Namespace) -> None:
    for name in EMPTY_MEANS_NONE:
        if getattr(args, name) == "":
            setattr(args, name, None)
    for name in EMPTY_LIST_MEANS_NONE:
        if getattr(args, name) == []:
            setattr(args, name, None)
    if args.dataset_config is not None and str(args.dataset_config) in ("", "."):  # Path("") is "."
        args.dataset_config = None


def _literal_quotes(args: Namespace) -> None:
    """The GUI hands on `'betas=(0.9,0.99)'` with its quotes."""
    for name in KEY_VALUE_LISTS:
        items = getattr(args, name)
        if items:
            setattr(args, name, [_unquoted(item) for item in items])


def _unquoted(item: str) -> str:
    return item[1:-1] if len(item) > 1 and item[0] == item[-1] and item[0] in "'\"" else item


def _implied_options(args: Namespace) -> None:
    for name in ("cache_latents", "cache_text_encoder_outputs"):
        if getattr(args, f"{name}_to_disk", False) and not getattr(args, name):
            logger.warning("--%s_to_disk is on, so --%s is on too", name, name)
            setattr(args, name, True)


def _pointless_values(args: Namespace) -> None:
    for name in ("sample_every_n_steps", "sample_every_n_epochs"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            logger.warning("--%s %s: no previews are drawn at that interval; give 1 or more to have them", name, value)
            setattr(args, name, None)
    if not 0 <= args.validation_split <= 1:
        logger.warning("--validation_split %s is no share between 0 and 1: no images are held out", args.validation_split)
        args.validation_split = 0.0
    if args.persistent_data_loader_workers and args.max_data_loader_n_workers == 0:
        logger.warning("--persistent_data_loader_workers has nothing to keep with --max_data_loader_n_workers 0 and is ignored")
        args.persistent_data_loader_workers = False


def _bucket_steps(args: Namespace, step: int) -> None:
    if args.bucket_reso_steps == 1:
        logger.warning("--bucket_reso_steps 1 is finer than this model can work with: using %d", step)
        args.bucket_reso_steps = step


def _warmup(args: Namespace, *, typed_by_hand: bool) -> None:
    if not args.lr_warmup_steps or needs_no_schedule(args):
        return
    if sets_its_own_rate(args):
        logger.warning("--lr_warmup_steps %s is ignored: Adafactor with relative_step warms up by itself", args.lr_warmup_steps)
        args.lr_warmup_steps = 0
    elif typed_by_hand:
        return
    elif args.lr_scheduler_type:
        logger.warning(
            "lr_warmup_steps = %s is ignored: the scheduler class %s has no warm-up", args.lr_warmup_steps, args.lr_scheduler_type
        )
        args.lr_warmup_steps = 0
    elif args.lr_scheduler == "constant":
        logger.warning("lr_warmup_steps = %s with lr_scheduler constant: using constant_with_warmup", args.lr_warmup_steps)
        args.lr_scheduler = "constant_with_warmup"
