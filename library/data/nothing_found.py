"""What is said when there is nothing to train on."""

import os
from collections.abc import Sequence

from library.data.subsets import DatasetSettings, Subset


def subset_name(subset: Subset) -> str:
    return str(subset.image_dir or subset.metadata_file)


def nothing_found(planned: Sequence[DatasetSettings]) -> ValueError:
    """The error to raise for data sets without a single image."""
    subsets = [subset for settings in planned for subset in settings.subsets]
    if not subsets:
        return ValueError(
            "there are no training images: name a folder with --train_data_dir that holds folders such as '10_name', "
            "or describe the data with --dataset_config"
        )
    shares = [settings.validation_split for settings in planned for _ in settings.subsets]
    facts = [_fact(subset, share) for subset, share in zip(subsets, shares, strict=True)]
    places = "\n".join(f"  {subset_name(subset)} ({fact})" for subset, fact in zip(subsets, facts, strict=True))
    needed = "Each must hold images, and num_repeats must be 1 or more"
    return ValueError(f"no training image was found. These were looked at:\n{places}\n{needed}")


def _fact(subset: Subset, validation_split: float | None) -> str:
    """What may be the reason why there is nothing to train on."""
    if subset.metadata_file is None and subset.image_dir and not os.path.isdir(subset.image_dir):
        return "there is no such folder"
    if subset.is_reg:
        return "regularisation images, which do not train alone"
    share = validation_split if subset.validation_split is None else subset.validation_split
    return f"num_repeats {subset.num_repeats}" + (f", validation_split {share:g} holds them out" if share else "")
