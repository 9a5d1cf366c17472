"""Small data sets of random pictures for tests of the pixel side: records, data sets and groups without any configuration."""

import random
from pathlib import Path

import numpy as np
from PIL import Image

from library.data.dataset import ImageDataset
from library.data.group import DatasetGroup
from library.data.registration import Registered
from library.data.subsets import DatasetSettings, ImageRecord, Subset


def paint(path: Path, size: tuple[int, int] = (64, 64), mode: str = "RGB", seed: int = 0) -> Path:
    """Saves a picture of random pixels; `size` is (width, height)."""
    channels = {"RGB": 3, "RGBA": 4}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, mode).save(path)
    return path


def cut_off(path: Path) -> Path:
    """Shortens an image so that its header is good and its pixels are not all there."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    return path


def record(path: Path, subset: Subset, size: tuple[int, int] = (64, 64), **values) -> ImageRecord:
    values = {"caption": f"a picture, {path.stem}, red, green, blue", "num_repeats": subset.num_repeats, "is_reg": subset.is_reg} | values
    return ImageRecord(key=str(path), path=path, subset=subset, size=size, **values)


def dataset(
    records: list[ImageRecord], *, index: int = 0, strict_compat: bool = False, skip_bad_images: bool = False, **settings
) -> ImageDataset:
    """A data set of 64x64 with buckets unless `settings` say otherwise."""
    subsets = list({id(item.subset): item.subset for item in records}.values())
    values = {"resolution": (64, 64), "enable_bucket": True, "min_bucket_reso": 64, "max_bucket_reso": 256} | settings
    train, regularisation = (sum(item.num_repeats for item in records if item.is_reg == kind) for kind in (False, True))
    registered = Registered({item.key: item for item in records}, train, regularisation, subsets)
    options = {"index": index, "strict_compat": strict_compat, "skip_bad_images": skip_bad_images}
    return ImageDataset(DatasetSettings(subsets, **values), registered, **options)


def painted_group(
    folder: Path, count: int = 5, *, sizes: tuple[tuple[int, int], ...] = ((64, 64),), strict_compat: bool = False,
    subset: Subset | None = None, mode: str = "RGB", seed: int = 1, **settings,
) -> DatasetGroup:
    """`count` pictures i0.png, i1.png, ... whose sizes take turns, as one seeded data set."""
    subset = subset or Subset(image_dir=str(folder), num_repeats=3)
    records = []
    for number in range(count):
        size = sizes[number % len(sizes)]
        path = folder / f"i{number}.png"
        records.append(record(path if path.exists() else paint(path, size, mode, seed=number), subset, size))
    group = DatasetGroup([dataset(records, strict_compat=strict_compat, **settings)])
    group.set_seed(seed)
    return group


def fixed_rng(*draws: float) -> random.Random:
    """A source of chance whose random() gives `draws` in turn and then fails."""
    rng = random.Random(0)
    remaining = list(draws)
    rng.random = lambda: remaining.pop(0)
    return rng
