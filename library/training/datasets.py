"""Builds the data sets of a run from its options: config file, metadata file or `N_class` folders."""

import logging
import random
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from library.data.custom_dataset import CustomGroup, dataset_class
from library.data.dataset import ImageDataset
from library.data.dataset_config import folder_config, metadata_config, plan_datasets, read_dataset_config
from library.data.dataset_schema import check_options
from library.data.group import DatasetGroup
from library.data.registration import Registered, register_images
from library.data.sizes import bad_images_error, bad_images_message
from library.data.subsets import DatasetSettings
from library.models.family import Family
from library.models.prompt_weights import parse_weights
from library.strangers import strangers_code
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

    train: DatasetGroup | CustomGroup
    validation: DatasetGroup | None
    dataset_seed: int
    from_config: bool


def build_datasets(args: Namespace, family: Family, seed: int, dataset_seed: int | None = None) -> RunData:
    """Plans, lists and reads the data sets; every mistake in them is told before a model is loaded.

    dataset_seed: that of the run which goes on here; None draws one.
    Raises ValueError if nothing is left to train on, or if the options and the data do not fit together.
    """
    if args.dataset_class is not None:
        train, validation, from_config = custom_group(args), None, False
    else:
        train, validation = _image_groups(args, seed)
        from_config = args.dataset_config is not None
    drawn_seed = random.randint(0, 2**31)
    dataset_seed = drawn_seed if dataset_seed is None else dataset_seed
    for group in (train, validation):
        if group is not None:
            group.set_seed(dataset_seed)
            group.set_tokenize(tokenize_function(args, family))
            group.check_bucket_steps(family.latents.bucket_step)
            check_caching(args, group)
            if args.weighted_captions:
                check_weights(group)
    logger.info("training data\n%s", train.table())
    return RunData(train, validation, dataset_seed, from_config)


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


def check_weights(group: DatasetGroup | CustomGroup) -> None:
    """Raises ValueError naming every image whose caption has a weight that is no number. A custom data set tells no captions."""
    problems = {}
    for dataset in group.datasets:
        for key, record in getattr(dataset, "records", {}).items():
            try:
                parse_weights(record.caption)
            except ValueError as mistake:
                problems[key] = str(mistake)
    if problems:
        raise bad_images_error(problems)


def custom_group(args: Namespace) -> CustomGroup:
    """The data set of --dataset_class. Raises ValueError if there is none of that name."""
    ignored = [f"--{name}" for name in ("dataset_config", "train_data_dir", "reg_data_dir", "in_json") if getattr(args, name)]
    if ignored:
        logger.warning("--dataset_class is given, so %s is ignored", ", ".join(ignored))
    options, mistakes = check_options({"resolution": args.resolution})
    if mistakes:
        raise ValueError("\n".join(mistakes))
    resolution = options.get("resolution")
    made_by = dataset_class(args.dataset_class)
    with strangers_code(f"--dataset_class {args.dataset_class}", "It is called with (None, max_token_length, resolution, debug_dataset)"):
        dataset = made_by(None, args.max_token_length, resolution, args.debug_dataset)
    return CustomGroup(dataset, args.dataset_class, resolution or (0, 0), strict_compat=args.strict_compat)


def _image_groups(args: Namespace, seed: int) -> tuple[DatasetGroup, DatasetGroup | None]:
    """The images to train on and those held out, listed and checked; all mistakes in both are told at once."""
    config, source = _config(args)
    settings = plan_datasets(config, _defaults(args), masked_loss=args.masked_loss, source=source)
    measured = settings if args.strict_compat else without_chance(settings)
    mistakes: list[str] = []
    trained = _registered(args, settings, seed, mistakes, validation=False)
    held_out = _registered(args, measured, seed, mistakes, validation=True) if holds_images_out(settings) else None
    if mistakes:
        raise ValueError("\n".join(dict.fromkeys(mistakes)))
    train = DatasetGroup(_datasets(args, settings, trained))
    return train, None if held_out is None else _validation_group(args, measured, held_out, train)


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


def _datasets(args: Namespace, settings: list[DatasetSettings], registered: list[Registered]) -> list[ImageDataset]:
    strict, skip = args.strict_compat, args.skip_bad_images
    return [
        ImageDataset(one, found, index=index, strict_compat=strict, skip_bad_images=skip)
        for index, (one, found) in enumerate(zip(settings, registered, strict=True))
    ]


def _validation_group(
    args: Namespace, settings: list[DatasetSettings], held_out: list[Registered], train: DatasetGroup
) -> DatasetGroup | None:
    """The held-out images; None, with a warning, if there is not a single one. strict_compat: they may be trained on too."""
    if not args.strict_compat:
        trained = [record for dataset in train.datasets for record in dataset.records.values()]
        for registered in held_out:
            leave_out_trained(registered, trained)
    if not any(registered.records for registered in held_out):
        logger.warning("--validation_split leaves no image to validate with: the share is too small, so nothing is validated")
        return None
    group = DatasetGroup(_datasets(args, settings, held_out))
    logger.info("%d images are held out for validation", group.num_train_images)
    return group


def drop_bad_images(groups: Sequence[DatasetGroup], problems: dict[str, str], *, skip: bool) -> None:
    """Leaves these images (path -> problem) out with a warning. Raises ValueError naming them all without `skip`."""
    if not problems:
        return
    if not skip:
        raise bad_images_error(problems)
    logger.warning("%s\nthey are left out (--skip_bad_images)", bad_images_message(problems))
    for group in groups:
        group.drop(problems)


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
