"""From the options to the images they name: planned, listed, measured, and every mistake in them told at once. Without torch."""

import logging
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from library.data.changing import Cacheable
from library.data.dataset_config import folder_config, metadata_config, plan_datasets, read_dataset_config
from library.data.registration import Registered, register_images
from library.data.sizes import bad_images_error
from library.data.subsets import DatasetSettings, ImageRecord, Subset
from library.models.prompt_weights import parse_weights
from library.training.held_out import holds_images_out, without_chance

logger = logging.getLogger(__name__)

OPTION_OF_KEY = {"batch_size": "train_batch_size", "num_repeats": "dataset_repeats"}
CONFIG_KEYS = (
    "batch_size",
    "num_repeats",
    "resolution",
    "enable_bucket",
    "min_bucket_reso",
    "max_bucket_reso",
    "bucket_reso_steps",
    "bucket_no_upscale",
    "skip_image_resolution",
    "resize_interpolation",
    "validation_split",
    "validation_seed",
    "prior_loss_weight",
    "shuffle_caption",
    "caption_separator",
    "caption_extension",
    "keep_tokens",
    "keep_tokens_separator",
    "secondary_separator",
    "enable_wildcard",
    "caption_prefix",
    "caption_suffix",
    "caption_dropout_rate",
    "caption_dropout_every_n_epochs",
    "caption_tag_dropout_rate",
    "token_warmup_min",
    "token_warmup_step",
    "color_aug",
    "flip_aug",
    "face_crop_aug_range",
    "random_crop",
    "alpha_mask",
    "cache_info",
)


@dataclass(frozen=True)
class Listed(Cacheable):
    """The images of a run, by data set. measured: the settings of those held out; held_out: None if none are to be."""

    settings: list[DatasetSettings]
    trained: list[Registered]
    measured: list[DatasetSettings]
    held_out: list[Registered] | None

    @property
    def records(self) -> list[ImageRecord]:
        """The images to train on."""
        return [record for registered in self.trained for record in registered.records.values()]

    @property
    def subsets(self) -> list[Subset]:
        """Those with images to train on."""
        return [subset for registered in self.trained for subset in registered.subsets]


def listed_images(args: Namespace, seed: int) -> Listed:
    """The images to train on and those held out, listed and checked. Raises ValueError that tells all mistakes in both."""
    settings = planned_datasets(args)
    measured = settings if args.strict_compat else without_chance(settings)
    mistakes: list[str] = []
    trained = _registered(args, settings, seed, mistakes, validation=False)
    held_out = _registered(args, measured, seed, mistakes, validation=True) if holds_images_out(settings) else None
    if mistakes:
        raise ValueError("\n".join(dict.fromkeys(mistakes)))
    return Listed(settings, trained, measured, held_out)


def planned_datasets(args: Namespace) -> list[DatasetSettings]:
    """What the config file, or the options in its place, say of each data set. Raises ValueError naming every wrong key and value."""
    config, source = _config(args)
    return plan_datasets(config, _defaults(args), masked_loss=args.masked_loss, source=source)


def text_cache_asked_for(args: Namespace) -> bool:
    """Whether an option demands a cache of text encoder outputs; only some scripts have the first one."""
    return getattr(args, "cache_text_encoder_outputs", False) or args.text_encoder_cache_variants is not None


def check_caching(args: Namespace, images: Cacheable) -> None:
    """Raises ValueError if a cache is asked for and a subset changes what it would hold."""
    reasons = images.latents_cacheable() if args.cache_latents or args.cache_latents_to_disk else []
    if reasons:
        raise ValueError("latents cannot be cached:\n" + "\n".join(reasons))
    variants = args.text_encoder_cache_variants is not None
    reasons = images.text_states_cacheable(variants) if text_cache_asked_for(args) else []
    if reasons:
        raise ValueError("text encoder outputs cannot be cached:\n" + "\n".join(reasons))


def check_weights(records: Iterable[ImageRecord]) -> None:
    """Raises ValueError naming every image whose caption has a weight that is no number."""
    problems = {}
    for record in records:
        try:
            parse_weights(record.caption)
        except ValueError as mistake:
            problems[record.key] = str(mistake)
    if problems:
        raise bad_images_error(problems)


def _registered(
    args: Namespace, settings: list[DatasetSettings], seed: int, mistakes: list[str], *, validation: bool
) -> list[Registered]:
    """The images of each data set; what is wrong with them is added to `mistakes`."""
    registered = []
    for one in settings:
        try:
            found = register_images(
                one,
                validation=validation,
                strict_compat=args.strict_compat,
                validation_seed_default=seed,
                skip_bad_images=args.skip_bad_images,
                use_index=not args.no_image_index,
                latents_cached=bool(args.cache_latents or args.cache_latents_to_disk),
            )
        except ValueError as mistake:
            mistakes.append(str(mistake))
        else:
            registered.append(found)
    return registered


def _config(args: Namespace) -> tuple[dict, str]:
    """The run's data as one config, and what to call it in messages."""
    if args.dataset_config:
        ignored = [f"--{name}" for name in ("train_data_dir", "reg_data_dir", "in_json") if getattr(args, name)]
        if ignored:
            logger.warning("--dataset_config is given, so %s is ignored", ", ".join(ignored))
        return read_dataset_config(args.dataset_config), str(args.dataset_config)
    if args.in_json:
        return metadata_config(args.train_data_dir, args.in_json), "--in_json"
    return folder_config(args.train_data_dir, args.reg_data_dir, strict_compat=args.strict_compat), "--train_data_dir"


def _defaults(args: Namespace) -> dict[str, Any]:
    """The command line's values under the names of the dataset config."""
    defaults = {key: getattr(args, OPTION_OF_KEY.get(key, key), None) for key in CONFIG_KEYS}
    if args.caption_extention is not None:
        defaults["caption_extension"] = args.caption_extention
    return defaults
