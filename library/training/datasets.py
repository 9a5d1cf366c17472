"""Builds the data sets of a run from its options: config file, metadata file or `N_class` folders."""

import functools
import logging
import random
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from library.data.custom_dataset import CustomGroup, dataset_class
from library.data.dataset import ImageDataset
from library.data.dataset_schema import check_options
from library.data.group import DatasetGroup
from library.data.registration import Registered
from library.data.sizes import bad_images_error, bad_images_message
from library.data.subsets import DatasetSettings
from library.models.family import Family
from library.strangers import strangers_code
from library.training.held_out import leave_out_trained
from library.training.listing import check_caching, check_weights, listed_images

logger = logging.getLogger(__name__)


@dataclass
class RunData:
    """The data of a run. dataset_seed: what every data set shuffles by. from_config: a --dataset_config described it."""

    train: DatasetGroup | CustomGroup
    validation: DatasetGroup | None
    dataset_seed: int
    from_config: bool

    @property
    def groups(self) -> list[DatasetGroup]:
        """Those of image files that there are."""
        return [group for group in (self.train, self.validation) if isinstance(group, DatasetGroup)]


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
                check_weights(group.records)
    logger.info("training data\n%s", train.table())
    return RunData(train, validation, dataset_seed, from_config)


def tokenize_function(args: Namespace, family: Family) -> Callable[[list[str]], tuple[list[Tensor], list[Tensor] | None]]:
    """Captions -> ids and, with --weighted_captions, weights; see Family.tokenize. It can be sent to other processes."""
    return family.tokenize_weighted if args.weighted_captions else functools.partial(without_weights, family.tokenize)


def without_weights(tokenize: Callable[[list[str]], list[Tensor]], captions: list[str]) -> tuple[list[Tensor], None]:
    return tokenize(captions), None


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
    """The images to train on and those held out."""
    listed = listed_images(args, seed)
    train = DatasetGroup(_datasets(args, listed.settings, listed.trained))
    return train, None if listed.held_out is None else _validation_group(args, listed.measured, listed.held_out, train)


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
