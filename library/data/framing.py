"""Framing: how an image is scaled and cut to the size it is trained at, and what SDXL is told about it.

Sizes are (width, height). `rng` is the module `random` or a random.Random; draws happen only where they are named.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from library.data.buckets import Size, fit_inside_crop, rounded
from library.data.images import crop_image, resize_image
from library.data.subsets import ImageRecord, Subset

CropBox = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Framing:
    """The image of size `original` was scaled to `resized`; `target` was cut from it at (left, top)."""

    original: Size
    resized: Size
    left: int
    top: int
    target: Size

    def crop_top_left(self, flipped: bool) -> tuple[int, int]:
        """SDXL's crop coordinates: where the cut lies in the resized image, mirrored with it."""
        left = self.resized[0] - self.target[0] - self.left if flipped else self.left
        return self.top, left

    def apply(self, image: np.ndarray, interpolation: str | None) -> np.ndarray:
        """Scales and cuts `image` in just this way."""
        return crop_image(resize_image(image, self.resized, interpolation), self.left, self.top, self.target)


def centered(original: Size, resized: Size, target: Size) -> Framing:
    return Framing(original, resized, max(0, resized[0] - target[0]) // 2, max(0, resized[1] - target[1]) // 2, target)


def reference_crop_top_left(box: CropBox, target_width: int, flipped: bool) -> tuple[int, int]:
    """SDXL's crop coordinates as sd-scripts gives them, from the box of buckets.fit_inside_crop."""
    left, top, right, _ = box
    return int(top), int(target_width - right if flipped else left)


def reference_crop_box(framing: Framing, bucketed: bool) -> CropBox:
    return fit_inside_crop(framing.target, framing.original) if bucketed else (0, 0, 0, 0)


def frame_in_bucket(size: Size, record: ImageRecord, random_crop: bool, rng) -> Framing:
    """Scaled to the record's `resized`, cut to its bucket: from the middle, or with random_crop anywhere.

    size: as decoded. Draws: with random_crop one for each side that is too long, width first.
    """
    if not random_crop:
        return centered(size, record.resized, record.bucket)
    spare_width, spare_height = (long - short for long, short in zip(record.resized, record.bucket, strict=True))
    left = rng.randint(0, spare_width) if spare_width > 0 else 0
    top = rng.randint(0, spare_height) if spare_height > 0 else 0
    return Framing(size, record.resized, left, top, record.bucket)


def frame_unscaled(size: Size, target: Size, subset: Subset, path: Path, rng) -> Framing:
    """Without buckets: the image must have the resolution, or be larger and cut by random_crop, center_crop or around a face.

    Draws: with random_crop one for each side that is too long, height first; around a face see `_frame_face`.
    Raises ValueError for an image that cannot be cut to `target`.
    """
    face = face_in_name(path) if subset.face_crop_aug_range is not None else None
    if face is not None and face[0] > 0 and max(face[2:]) > 0 and size != target:
        return _frame_face(size, target, face, subset, path, rng)
    may_be_cut = subset.random_crop or subset.center_crop
    fits = size == target or (may_be_cut and size[0] >= target[0] and size[1] >= target[1])
    if not fits:
        raise ValueError(
            f"{path} is {size[0]}x{size[1]} but --resolution is {target[0]}x{target[1]}: turn on --enable_bucket, "
            "resize the image, or for a larger one turn on --random_crop"
        )
    if subset.center_crop:
        return centered(size, size, target)
    top = rng.randint(0, size[1] - target[1]) if size[1] > target[1] else 0
    left = rng.randint(0, size[0] - target[0]) if size[0] > target[0] else 0
    return Framing(size, size, left, top, target)


def face_in_name(path: Path) -> tuple[int, int, int, int] | None:
    """Centre x, centre y, width, height of the face from a file name such as photo_512_300_128_140.png."""
    parts = path.stem.split("_")
    if len(parts) < 5:
        return None
    try:
        return tuple(int(part) for part in parts[-4:])
    except ValueError as error:
        raise ValueError(
            f"{path}: with --face_crop_aug_range a file name must end in _x_y_width_height of the face in pixels, "
            f"or have fewer than four '_': got {'_'.join(parts[-4:])!r}"
        ) from error


def _frame_face(size: Size, target: Size, face: tuple[int, int, int, int], subset: Subset, path: Path, rng) -> Framing:
    """Scales so that the face's size relative to the shorter side lies in face_crop_aug_range, then cuts around it.

    Draws: the scale, if the range leaves a choice; then for y and for x two with random_crop,
    else one if the range is not a single value and the face is large enough to be moved.
    """
    low, high = subset.face_crop_aug_range
    face_size, short = max(face[2:]), min(target)
    smallest = min(1.0, max(target[1] / size[1], target[0] / size[0], short / (face_size * high)))
    largest = min(1.0, max(smallest, short / (face_size * low))) if low > 0 else 1.0
    scale = smallest if smallest >= largest else rng.uniform(smallest, largest)
    resized = rounded(size[0] * scale), rounded(size[1] * scale)
    if resized[0] < target[0] or resized[1] < target[1]:
        raise ValueError(f"{path} is {size[0]}x{size[1]}, smaller than --resolution {target[0]}x{target[1]}: use a larger image")
    center = rounded(face[0] * scale), rounded(face[1] * scale)
    may_move = low != high and face_size > short // 10 and face_size >= 40

    def cut(axis: int) -> int:
        start = center[axis] - target[axis] // 2
        if subset.random_crop:
            reach = max(resized[axis] - center[axis], center[axis])
            start += rng.randint(0, reach) + rng.randint(0, reach) - reach
        elif may_move:
            start += rng.randint(-face_size // 20, face_size // 20)
        return max(0, min(start, resized[axis] - target[axis]))

    top = cut(1)
    return Framing(size, resized, cut(0), top, target)
