"""All data sets of a run as one: their batches share one index space, and checks and overviews cover all of them."""

import os
from bisect import bisect_right
from collections.abc import Collection
from itertools import accumulate

from torch.utils.data import Dataset

from library.data.batch import Batch
from library.data.bucket_table import bucket_table
from library.data.dataset import ImageDataset
from library.data.samples import Tokenize, is_cached
from library.data.subsets import Subset


class DatasetGroup(Dataset):
    """Item k is a whole batch. Raises ValueError when there is no image in any of the data sets."""

    def __init__(self, datasets: list[ImageDataset]):
        self.datasets = datasets
        self.strict_compat = any(dataset.strict_compat for dataset in datasets)
        self._ends: list[int] = []
        self._count()

    def _count(self) -> None:
        self.num_train_images = sum(dataset.num_train_images for dataset in self.datasets)
        self.num_reg_images = sum(dataset.num_reg_images for dataset in self.datasets)
        self._ends = list(accumulate(len(dataset) for dataset in self.datasets))
        if not any(dataset.records for dataset in self.datasets):
            raise ValueError(_nothing_found(self.datasets))

    def drop(self, keys: Collection[str]) -> None:
        """Leaves images out, before the first batch. Raises ValueError if none is left."""
        for dataset in self.datasets:
            dataset.drop(keys)
        self._count()

    def __len__(self) -> int:
        """Batches per epoch."""
        return self._ends[-1]

    @property
    def largest_bucket(self) -> int:
        """Pixels of the largest bucket in use."""
        return max(width * height for dataset in self.datasets for width, height in (bucket.resolution for bucket in dataset.buckets))

    @property
    def samples_per_epoch(self) -> int:
        """Images per epoch, repeats included."""
        return sum(len(bucket.keys) for dataset in self.datasets for bucket in dataset.buckets)

    def __getitem__(self, item: int | tuple[int, int, int]) -> Batch:
        """item: (epoch, step, number), or with strict_compat the number alone."""
        if isinstance(item, int):
            dataset, index = self._locate(item)
            return dataset.believed_batch(index)
        epoch, step, number = item
        dataset, index = self._locate(number)
        return dataset.batch(index, epoch=epoch, step=step)

    def _locate(self, number: int) -> tuple[ImageDataset, int]:
        position = bisect_right(self._ends, number)
        return self.datasets[position], number - (self._ends[position - 1] if position else 0)

    def set_seed(self, seed: int) -> None:
        for dataset in self.datasets:
            dataset.set_seed(seed)

    def set_clock(self, epoch: int, step: int) -> None:
        """strict_compat only, see ImageDataset.set_clock."""
        for dataset in self.datasets:
            dataset.set_clock(epoch, step)

    def set_max_train_steps(self, max_train_steps: int) -> None:
        for dataset in self.datasets:
            dataset.max_train_steps = max_train_steps

    def set_tokenize(self, tokenize: Tokenize | None) -> None:
        for dataset in self.datasets:
            dataset.tokenize = tokenize

    @property
    def has_cached_latents(self) -> bool:
        return all(is_cached(record) for dataset in self.datasets for record in dataset.records.values())

    @property
    def has_cached_text_states(self) -> bool:
        records = [record for dataset in self.datasets for record in dataset.records.values()]
        return all(record.cached_text is not None for record in records)

    def check_bucket_steps(self, multiple: int) -> None:
        """Raises ValueError when the model needs bucket sizes in multiples of `multiple` pixels and a data set has others."""
        for dataset in self.datasets:
            step = dataset.settings.bucket_reso_steps
            if dataset.settings.enable_bucket and step % multiple:
                raise ValueError(
                    f"--bucket_reso_steps is {step} in data set {dataset.index + 1}, but this model needs a multiple of {multiple}: "
                    f"use {max(multiple, step // multiple * multiple)}"
                )

    def latents_cacheable(self) -> list[str]:
        """Why latents cannot be cached: one line for each subset and option that changes images at random."""
        return self._lines(("color_aug", "random_crop"), "changes the image each time: turn it off or do not cache latents")

    def text_states_cacheable(self, variants: bool = False) -> list[str]:
        """Why text encoder outputs cannot be cached: one line for each subset and option that changes captions at random.

        variants: several variants of each caption are cached, then only what follows the global step is in the way.
        """
        if variants:
            reason = "changes the caption with the step: turn it off or do not cache text encoder outputs"
            return self._lines(("token_warmup_step",), reason)
        options = ("caption_dropout_rate", "shuffle_caption", "token_warmup_step", "caption_tag_dropout_rate")
        advice = "turn it off, do not cache text encoder outputs, or cache several of each with --text_encoder_cache_variants"
        return self._lines(options, f"changes the caption each time: {advice}")

    @property
    def captions_are_static(self) -> bool:
        """Whether each image has the same caption whenever it is used."""
        return not self.text_states_cacheable() and not self._lines(("enable_wildcard", "caption_dropout_every_n_epochs"), "")

    def _lines(self, options: tuple[str, ...], reason: str) -> list[str]:
        lines = []
        for dataset in self.datasets:
            for subset in dataset.subsets:
                lines += [f"--{option} in {subset_name(subset)} {reason}" for option in options if getattr(subset, option)]
        return lines

    def table(self) -> str:
        """The bucket table and the counts per epoch, for people."""
        return bucket_table(self.datasets)


def subset_name(subset: Subset) -> str:
    return str(subset.image_dir or subset.metadata_file)


def _nothing_found(datasets: list[ImageDataset]) -> str:
    subsets = [subset for dataset in datasets for subset in dataset.settings.subsets]
    if not subsets:
        return (
            "there are no training images: name a folder with --train_data_dir that holds folders such as '10_name', "
            "or describe the data with --dataset_config"
        )
    shares = [dataset.settings.validation_split for dataset in datasets for _ in dataset.settings.subsets]
    facts = [_fact(subset, share) for subset, share in zip(subsets, shares, strict=True)]
    places = "\n".join(f"  {subset_name(subset)} ({fact})" for subset, fact in zip(subsets, facts, strict=True))
    return f"no training image was found. These were looked at:\n{places}\nEach must hold images, and num_repeats must be 1 or more"


def _fact(subset: Subset, validation_split: float | None) -> str:
    """What may be the reason why there is nothing to train on."""
    if subset.metadata_file is None and subset.image_dir and not os.path.isdir(subset.image_dir):
        return "there is no such folder"
    if subset.is_reg:
        return "regularisation images, which do not train alone"
    share = validation_split if subset.validation_split is None else subset.validation_split
    return f"num_repeats {subset.num_repeats}" + (f", validation_split {share:g} holds them out" if share else "")
