"""Images held out for validation: measured as they are, and never trained on."""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from library.data.registration import Registered
from library.data.subsets import DatasetSettings, ImageRecord, Subset

logger = logging.getLogger(__name__)

WITHOUT_CHANCE = {
    "flip_aug": False,
    "color_aug": False,
    "random_crop": False,
    "face_crop_aug_range": None,
    "shuffle_caption": False,
    "caption_dropout_rate": 0.0,
    "caption_dropout_every_n_epochs": 0,
    "caption_tag_dropout_rate": 0.0,
    "token_warmup_step": 0,
}


def holds_images_out(settings: Iterable[DatasetSettings]) -> bool:
    """Whether any data set or subset gives a share of its images to validation."""
    return any(one.validation_split > 0 or any(subset.validation_split for subset in one.subsets) for one in settings)


def without_chance(settings: Sequence[DatasetSettings]) -> list[DatasetSettings]:
    """The same data sets with nothing done to images and captions at random, so a change of the loss is one of the network."""
    return [replace(one, subsets=[_measured(subset) for subset in one.subsets]) for one in settings]


def _measured(subset: Subset) -> Subset:
    cut = subset.random_crop or subset.face_crop_aug_range is not None
    return replace(subset, **WITHOUT_CHANCE, center_crop=cut)


def leave_out_trained(held_out: Registered, trained: Iterable[ImageRecord]) -> None:
    """Takes images from `held_out` that are trained on through another subset or data set, with a warning."""
    files = {os.path.realpath(record.path) for record in trained}
    overlap = [record for record in held_out.records.values() if os.path.realpath(record.path) in files]
    for record in overlap:
        del held_out.records[record.key]
        held_out.num_train_images -= record.num_repeats
        record.subset.img_count -= 1
    if overlap:
        logger.warning(
            "%d images that --validation_split would hold out are trained on in another subset or data set (%s): they are not "
            "validated. Give both the same validation_split and validation_seed",
            len(overlap), overlap[0].path,
        )  # fmt: skip
