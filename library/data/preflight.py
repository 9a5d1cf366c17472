"""What only fails when an image is used, found before training: sizes that cannot be cut, masks that do not fit their images.

Headers are read, nothing is decoded.
"""

import random
from collections.abc import Mapping
from pathlib import Path

from library.data.buckets import BucketPlan, Size
from library.data.framing import frame_unscaled
from library.data.sizes import probe_sizes
from library.data.subsets import DatasetSettings, Subset


def unusable_images(
    sizes: Mapping[str, Size],
    masks: Mapping[str, Path],
    subset: Subset,
    settings: DatasetSettings,
    *,
    latents_cached: bool,
    strict_compat: bool,
) -> dict[str, str]:
    """Image path -> why it cannot be trained on as the settings are.

    sizes, masks: of the images that can be read. latents_cached: every image is scaled to its bucket, though there be but one.
    """
    problems = {}
    for path, size in sizes.items():
        try:
            _try_framing(path, size, subset, settings, latents_cached)
        except ValueError as mistake:
            problems[path] = str(mistake).removeprefix(path).lstrip(": ")
    return problems | _wrong_masks(sizes, masks, squeezed=strict_compat and not settings.enable_bucket)


def _try_framing(path: str, size: Size, subset: Subset, settings: DatasetSettings, latents_cached: bool) -> None:
    width, height = settings.resolution
    if settings.enable_bucket and settings.bucket_no_upscale:
        BucketPlan((), width * height, settings.bucket_reso_steps).choose(size, path)
    elif not settings.enable_bucket and not latents_cached:
        frame_unscaled(size, settings.resolution, subset, Path(path), random.Random(0))


def _wrong_masks(sizes: Mapping[str, Size], masks: Mapping[str, Path], *, squeezed: bool) -> dict[str, str]:
    """squeezed: masks may have any size, as they are squeezed to that of the image."""
    paths = {path: str(masks[path]) for path in sizes if path in masks}
    mask_sizes, unreadable = probe_sizes(list(paths.values()))
    problems = {path: f"its mask {mask}: {unreadable[mask]}" for path, mask in paths.items() if mask in unreadable}
    for path, mask in paths.items():
        if not squeezed and mask_sizes.get(mask, sizes[path]) != sizes[path]:
            wanted, found = sizes[path], mask_sizes[mask]
            problems[path] = f"is {wanted[0]}x{wanted[1]} but its mask {mask} is {found[0]}x{found[1]}: make both the same size"
    return problems
