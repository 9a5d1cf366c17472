"""One data set of a run: its images sorted into buckets, and its batches by number.

By default a batch is a pure function of (seed, epoch, batch number): neither the number of loader workers nor where a run was
resumed changes it. With strict_compat it comes from the global `random` and from what was built before, as in sd-scripts.
"""

import logging
import random
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from library.data.batch import Batch
from library.data.buckets import Size, plan_buckets
from library.data.caption_files import without_tags
from library.data.images import BadImage, check_interpolation
from library.data.layout import EpochLayouts, Layout, RunningLayout, canonical_layout
from library.data.registration import Registered
from library.data.samples import Moment, Sample, Tokenize, make_batch, make_sample
from library.data.subsets import DatasetSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bucket:
    """resolution: (width, height). keys: its images in registration order, each as often as it is repeated."""

    resolution: Size
    keys: list[str]


class ImageDataset:
    """index: its number among the data sets of the run. `tokenize` is set from outside; without it batches carry no ids.

    skip_bad_images: an image that turns out to be unreadable is replaced by the next one of its bucket.
    """

    def __init__(
        self,
        settings: DatasetSettings,
        registered: Registered,
        *,
        index: int,
        strict_compat: bool,
        max_train_steps: int = 0,
        skip_bad_images: bool = False,
    ):
        self.settings = settings
        self.records = registered.records
        self.subsets = registered.subsets
        self.num_train_images = registered.num_train_images
        self.num_reg_images = registered.num_reg_images
        self.index = index
        self.strict_compat = strict_compat
        self.max_train_steps = max_train_steps
        self.skip_bad_images = skip_bad_images
        self._replaced: set[str] = set()
        self.seed = 0
        self.step = 0
        self.tokenize: Tokenize | None = None
        for name in [settings.resize_interpolation, *(subset.resize_interpolation for subset in self.subsets)]:
            check_interpolation(name)
        self._lay_out()

    def _lay_out(self) -> None:
        """From the records to buckets and batches."""
        self.mean_ar_error = self._assign_buckets()
        self.buckets = self._filled_buckets()
        canonical = canonical_layout([bucket.keys for bucket in self.buckets], self.settings.batch_size)
        self._length = len(canonical.batches)
        self._layouts = RunningLayout(canonical) if self.strict_compat else EpochLayouts(canonical)

    def drop(self, keys: Collection[str]) -> None:
        """Leaves these images out from now on; others are not known here or not touched. Before the first batch only."""
        dropped = [self.records.pop(key) for key in keys if key in self.records]
        for record in dropped:
            self.num_train_images -= 0 if record.is_reg else record.num_repeats
            self.num_reg_images -= record.subset.num_repeats if record.is_reg else 0
            record.subset.img_count -= 1
            if record.subset.metadata_file is None:
                record.subset.tag_frequency = without_tags(record.subset.tag_frequency, record.caption)
        if dropped:
            self._lay_out()
            if self.strict_compat:
                state = random.getstate()
                self.set_seed(self.seed)
                random.setstate(state)

    def __len__(self) -> int:
        """Batches per epoch."""
        return self._length

    @property
    def bucket_info(self) -> dict | None:
        """For the saved file's metadata; None without --enable_bucket."""
        if not self.settings.enable_bucket:
            return None
        buckets = {
            number: {"resolution": bucket.resolution, "count": len(bucket.keys)} for number, bucket in enumerate(self.buckets)
        }
        return {"buckets": buckets, "mean_img_ar_error": self.mean_ar_error}

    @property
    def part_filled(self) -> list[int]:
        """For each bucket 1 if its last batch is smaller than the batch size, else 0."""
        return [int(len(bucket.keys) % self.settings.batch_size > 0) for bucket in self.buckets]

    def set_seed(self, seed: int) -> None:
        """Call once, before the first batch. With strict_compat this leaves the global `random` in a state that `seed` has no part in."""
        self.seed = seed
        if self.strict_compat:
            self._layouts.start(seed)

    def set_clock(self, epoch: int, step: int) -> None:
        """strict_compat only: what the data set believes from now on; a new epoch shuffles."""
        self._layouts.advance(epoch)
        self.step = step

    def believed_batch(self, index: int) -> Batch:
        """strict_compat only: the batch for the epoch and step that the data set believes in."""
        return self.batch(index, epoch=self._layouts.epoch, step=self.step)

    def batch(self, index: int, *, epoch: int, step: int) -> Batch:
        """Batch number `index` of `epoch` (1-based); `step` is the global step it is used in, for the tag warm-up."""
        layout = self._layout(epoch)
        rng = random if self.strict_compat else random.Random(f"batch {self.seed} {self.index} {epoch} {index}")
        moment = Moment(epoch, step, self.max_train_steps, rng)
        keys = layout.batch_keys(index, self.settings.batch_size)
        samples = [self._sample(key, moment) for key in keys]
        batch = make_batch(samples, self.settings, self.tokenize)
        batch.dataset_index, batch.batch_index, batch.epoch, batch.step = self.index, index, epoch, step
        return batch

    def _sample(self, key: str, moment: Moment) -> Sample:
        """The image's sample. One that cannot be decoded is an error, or with skip_bad_images replaced and told once."""
        try:
            return make_sample(self.records[key], self.settings, moment, strict_compat=self.strict_compat)
        except BadImage as error:
            if not self.skip_bad_images:
                raise
            return self._replacement(key, moment, error)

    def _replacement(self, key: str, moment: Moment, error: BadImage) -> Sample:
        """The next image of the same bucket that can be decoded: always the same one, whatever was built before."""
        wanted = self.records[key].bucket
        keys = next(list(dict.fromkeys(bucket.keys)) for bucket in self.buckets if bucket.resolution == wanted)
        place = keys.index(key)
        for other in keys[place + 1 :] + keys[:place]:
            try:
                sample = make_sample(self.records[other], self.settings, moment, strict_compat=self.strict_compat)
            except BadImage:
                continue
            if key not in self._replaced:
                self._replaced.add(key)
                logger.warning("%s: %s; %s is used in its place (--skip_bad_images)", error.path, error.reason, other)
            return sample
        raise ValueError(f"no image of the bucket {wanted[0]}x{wanted[1]} can be read, the first problem: {error}") from error

    def _layout(self, epoch: int) -> Layout:
        if self.strict_compat:
            return self._layouts.layout
        return self._layouts.of(f"{self.seed} {self.index}", epoch)

    def _assign_buckets(self) -> float:
        """Sets each record's bucket and size; returns the mean difference in aspect ratio (0.0 without images)."""
        plan = plan_buckets(self.settings)
        errors, chosen = [], {}
        for record in self.records.values():
            choice = chosen.get(record.size) or plan.choose(record.size, record.key)
            chosen[record.size] = choice
            record.bucket, record.resized = choice.bucket, choice.resized
            errors.append(abs(choice.ar_error))
        return float(np.mean(errors)) if errors else 0.0

    def _filled_buckets(self) -> list[Bucket]:
        """Buckets that hold images, ascending by (width, height)."""
        filled: dict[Size, list[str]] = {}
        for key, record in self.records.items():
            filled.setdefault(record.bucket, []).extend([key] * record.num_repeats)
        return [Bucket(resolution, filled[resolution]) for resolution in sorted(filled)]
