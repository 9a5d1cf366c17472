"""All data sets of a run as one: their batches share one index space, and checks and overviews cover all of them."""

from bisect import bisect_right
from collections.abc import Collection
from itertools import accumulate

from torch.utils.data import Dataset

from library.data.batch import Batch
from library.data.bucket_table import bucket_table
from library.data.changing import Cacheable, captions_are_static
from library.data.dataset import ImageDataset
from library.data.nothing_found import nothing_found
from library.data.samples import Tokenize, is_cached
from library.data.subsets import ImageRecord, Subset


class DatasetGroup(Cacheable, Dataset):
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
            raise nothing_found([dataset.settings for dataset in self.datasets])

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
        return all(map(is_cached, self.records))

    @property
    def needs_no_file(self) -> bool:
        """Whether batches are made from memory alone, so quickly that worker processes would not help."""
        return all(record.needs_no_file for record in self.records)

    @property
    def has_cached_text_states(self) -> bool:
        return all(record.cached_text is not None for record in self.records)

    def check_bucket_steps(self, multiple: int) -> None:
        """Raises ValueError when the model needs bucket sizes in multiples of `multiple` pixels and a data set has others."""
        for dataset in self.datasets:
            step = dataset.settings.bucket_reso_steps
            if dataset.settings.enable_bucket and step % multiple:
                raise ValueError(
                    f"--bucket_reso_steps is {step} in data set {dataset.index + 1}, but this model needs a multiple of {multiple}: "
                    f"use {max(multiple, step // multiple * multiple)}"
                )

    @property
    def records(self) -> list[ImageRecord]:
        """Of all data sets."""
        return [record for dataset in self.datasets for record in dataset.records.values()]

    @property
    def subsets(self) -> list[Subset]:
        """Of all data sets."""
        return [subset for dataset in self.datasets for subset in dataset.subsets]

    @property
    def captions_are_static(self) -> bool:
        """Whether each image has the same caption whenever it is used."""
        return captions_are_static(self.subsets)

    def table(self) -> str:
        """The bucket table and the counts per epoch, for people."""
        return bucket_table(self.datasets)
