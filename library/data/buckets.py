"""Aspect-ratio buckets: the size each training image is resized to and cropped to.

Sizes are (width, height) in pixels, an aspect ratio is width / height. Pure arithmetic: no torch, no files.
"""

import logging
from dataclasses import dataclass
from math import inf, isqrt, sqrt

from library.data.subsets import DatasetSettings

logger = logging.getLogger(__name__)

Size = tuple[int, int]


@dataclass(frozen=True)
class Choice:
    """What becomes of one image: it is resized to `resized`, which covers `bucket`, and cropped to `bucket`."""

    bucket: Size
    resized: Size
    ar_error: float
    """Aspect ratio of the bucket minus that of the image."""


@dataclass(frozen=True)
class BucketPlan:
    """How images find their bucket. `sizes` is empty when buckets are made to measure (--bucket_no_upscale)."""

    sizes: tuple[Size, ...]
    area: int
    step: int

    def choose(self, size: Size, image: str = "image") -> Choice:
        """The bucket for an image of `size`; `image` is its name for messages.

        Raises ValueError when, without upscaling, the image is smaller than one bucket step.
        """
        bucket, resized = self._listed(size) if self.sizes else self._measured(size)
        if 0 in bucket:
            when, advice = ("", "use a larger image") if resized == size else ("once shrunk to the area of --resolution ", "raise that")
            raise ValueError(
                f"{image} is {size[0]}x{size[1]}, {when}too small for a bucket of --bucket_reso_steps {self.step} with "
                f"--bucket_no_upscale: {advice}, remove it, or leave out --bucket_no_upscale"
            )
        return Choice(bucket, resized, bucket[0] / bucket[1] - size[0] / size[1])

    def _listed(self, size: Size) -> tuple[Size, Size]:
        """The listed bucket nearest in aspect ratio (the first of equals), and the size that just covers it."""
        aspect = size[0] / size[1]
        bucket = size if size in self.sizes else min(self.sizes, key=lambda listed: abs(listed[0] / listed[1] - aspect))
        scale = bucket[1] / size[1] if aspect > bucket[0] / bucket[1] else bucket[0] / size[0]
        return bucket, (rounded(size[0] * scale), rounded(size[1] * scale))

    def _measured(self, size: Size) -> tuple[Size, Size]:
        """Shrinks only images of more than `area` pixels; the bucket is what is left after cutting to whole steps."""
        resized = self._shrunk(size) if size[0] * size[1] > self.area else size
        return (self._floored(resized[0]), self._floored(resized[1])), resized

    def _shrunk(self, size: Size) -> Size:
        """About `area` pixels, with one side in whole steps: the side for which the aspect ratio suffers less."""
        aspect = size[0] / size[1]
        ideal_width = sqrt(self.area * aspect)
        width = self._floored(rounded(ideal_width))
        height_of_width = self._floored(rounded(width / aspect))
        height = self._floored(rounded(self.area / ideal_width))
        width_of_height = self._floored(rounded(height * aspect))
        error_of_width = abs(width / height_of_width - aspect) if height_of_width else inf
        error_of_height = abs(width_of_height / height - aspect) if height else inf
        if error_of_width < error_of_height:
            return width, rounded(width / aspect)
        return rounded(height * aspect), height

    def _floored(self, length: int) -> int:
        return length - length % self.step


def plan_buckets(settings: DatasetSettings) -> BucketPlan:
    """The buckets a data set asks for; without --enable_bucket the resolution is the only one.

    Raises ValueError when the resolution lies outside --min_bucket_reso to --max_bucket_reso.
    """
    width, height = settings.resolution
    if not settings.enable_bucket:
        return BucketPlan((settings.resolution,), width * height, settings.bucket_reso_steps)
    smallest, largest = bucket_limits(settings)
    if smallest > min(width, height):
        raise ValueError(f"--min_bucket_reso {smallest} is larger than the shorter side of --resolution {width}x{height}: lower it")
    if largest < max(width, height):
        raise ValueError(f"--max_bucket_reso {largest} is smaller than the longer side of --resolution {width}x{height}: raise it")
    sizes = () if settings.bucket_no_upscale else bucket_sizes(width * height, settings.bucket_reso_steps, smallest, largest)
    return BucketPlan(tuple(sizes), width * height, settings.bucket_reso_steps)


def bucket_limits(settings: DatasetSettings) -> tuple[int, int]:
    """Shortest and longest side a bucket may have: min_bucket_reso rounded down and max_bucket_reso up to whole steps."""
    step = settings.bucket_reso_steps
    smallest = settings.min_bucket_reso // step * step
    largest = -(-settings.max_bucket_reso // step) * step
    for option, asked, used in (
        ("--min_bucket_reso", settings.min_bucket_reso, smallest),
        ("--max_bucket_reso", settings.max_bucket_reso, largest),
    ):
        if asked != used:
            logger.warning("%s %d is no multiple of --bucket_reso_steps %d: using %d", option, asked, step, used)
    return smallest, largest


def bucket_sizes(area: int, step: int, smallest: int, largest: int) -> list[Size]:
    """Every size in whole steps with at most `area` pixels and sides in smallest..largest, plus the square; ascending."""
    side = isqrt(area) // step * step
    sizes = {(side, side)}
    for width in range(smallest, largest + 1, step):
        height = min(largest, area // width // step * step) if width else 0
        if height >= smallest and height:
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def fit_inside_crop(bucket: Size, size: Size) -> tuple[float, float, float, float]:
    """Left, top, right, bottom that an image of `size` would take if it were fitted inside `bucket`, in bucket pixels.

    It is not where the image is cropped; cache files and --strict_compat carry it because sd-scripts does.
    """
    aspect = size[0] / size[1]
    if bucket[0] / bucket[1] > aspect:
        width, height = bucket[1] * aspect, bucket[1]
    else:
        width, height = bucket[0], bucket[0] / aspect
    left, top = (bucket[0] - width) // 2, (bucket[1] - height) // 2
    return left, top, left + width, top + height


def rounded(length: float) -> int:
    """To the nearest whole number, halves up (Python's round takes halves to even)."""
    return int(length + 0.5)
