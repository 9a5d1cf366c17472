"""Builds the data sets of a run from its options: config file, metadata file or `N_class` folders."""

import logging
import random
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from library.data.dataset import ImageDataset
from library.data.dataset_config import folder_config, metadata_config, plan_datasets, read_dataset_config
from library.data.group import DatasetGroup
from library.data.registration import register_images
from library.data.subsets import DatasetSettings, ImageRecord
from library.models.family import Family
from library.training.held_out import holds_images_out, leave_out_trained, without_chance

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


@dataclass
class RunData:
    """The data of a run. dataset_seed: what every data set shuffles by. from_config: a --dataset_config described it."""

    train: DatasetGroup
    validation: DatasetGroup | None
    dataset_seed: int
    from_config: bool


def build_datasets(args: Namespace, family: Family, seed: int, dataset_seed: int | None = None) -> RunData:
    """Plans, lists and reads the data sets; every mistake in them is told before a model is loaded.

    dataset_seed: that of the run which goes on here; None draws one.
    Raises ValueError if nothing is left to train on, or if the options and the data do not fit together.
    """
    config, source = _config(args)
    settings = plan_datasets(config, _defaults(args), masked_loss=args.masked_loss, source=source)
    strict = args.strict_compat
    train = DatasetGroup(_datasets(settings, seed, strict=strict))
    validation = _validation_group(settings, seed, train, strict=strict) if holds_images_out(settings) else None
    drawn_seed = random.randint(0, 2**31)
    dataset_seed = drawn_seed if dataset_seed is None else dataset_seed
    for group in (train, validation):
        if group is not None:
            group.set_seed(dataset_seed)
            group.set_tokenize(tokenize_function(args, family))
            group.check_bucket_steps(family.latents.bucket_step)
            check_caching(args, group)
    logger.info("training data\n%s", train.table())
    return RunData(train, validation, dataset_seed, from_config=args.dataset_config is not None)


def tokenize_function(args: Namespace, family: Family) -> Callable[[list[str]], tuple[list[Tensor], list[Tensor] | None]]:
    """Captions -> ids and, with --weighted_captions, weights; see Family.tokenize."""
    if args.weighted_captions:
        return family.tokenize_weighted
    return lambda captions: (family.tokenize(captions), None)


def text_cache_asked_for(args: Namespace) -> bool:
    """Whether an option demands a cache of text encoder outputs; only some scripts have the first one."""
    return getattr(args, "cache_text_encoder_outputs", False) or args.text_encoder_cache_variants is not None


def check_caching(args: Namespace, group: DatasetGroup) -> None:
    """Raises ValueError if a cache is asked for and a subset changes what it would hold."""
    reasons = group.latents_cacheable() if args.cache_latents or args.cache_latents_to_disk else []
    if reasons:
        raise ValueError("latents cannot be cached:\n" + "\n".join(reasons))
    variants = args.text_encoder_cache_variants is not None
    reasons = group.text_states_cacheable(variants) if text_cache_asked_for(args) else []
    if reasons:
        raise ValueError("text encoder outputs cannot be cached:\n" + "\n".join(reasons))


def _validation_group(settings: list[DatasetSettings], seed: int, train: DatasetGroup, *, strict: bool) -> DatasetGroup | None:
    """The held-out images; None, with a warning, if there is not a single one. strict_compat: they may be trained on too."""
    trained = [record for dataset in train.datasets for record in dataset.records.values()]
    datasets = _datasets(settings if strict else without_chance(settings), seed, strict=strict, trained=trained)
    if not any(dataset.records for dataset in datasets):
        logger.warning("--validation_split leaves no image to validate with: the share is too small, so nothing is validated")
        return None
    group = DatasetGroup(datasets)
    logger.info("%d images are held out for validation", group.num_train_images)
    return group


def _datasets(
    settings: list[DatasetSettings], seed: int, *, strict: bool, trained: list[ImageRecord] | None = None
) -> list[ImageDataset]:
    """trained: the images that are trained on, for the data sets of those that are held out; None for the former themselves."""
    validation = trained is not None
    datasets = []
    for index, one in enumerate(settings):
        registered = register_images(one, validation=validation, strict_compat=strict, validation_seed_default=seed)
        if validation and not strict:
            leave_out_trained(registered, trained)
        datasets.append(ImageDataset(one, registered, index=index, strict_compat=strict))
    return datasets


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
