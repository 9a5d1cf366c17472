"""From a data set's settings to its images: listed, captioned, measured, held out for validation, balanced."""

import dataclasses
import logging
import math
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from library.data.caption_files import read_captions, tag_frequency
from library.data.folders import ImageFolder, list_images, pair_with_conditioning
from library.data.image_index import INDEX_FROM, ImageIndex
from library.data.info_cache import is_up_to_date, read_info_cache, write_info_cache
from library.data.metadata_files import read_metadata_file
from library.data.preflight import unusable_images
from library.data.sizes import bad_images_error, bad_images_message, probe_sizes
from library.data.subsets import DatasetSettings, ImageRecord, Subset

logger = logging.getLogger(__name__)


@dataclass
class Registered:
    """The images of one data set in order of registration, by path, regularisation images already balanced.

    num_train_images, num_reg_images: with repeats, the latter before balancing. subsets: those with images, with
    img_count and tag_frequency filled in. problems: images left out because they cannot be read.
    """

    records: dict[str, ImageRecord] = field(default_factory=dict)
    num_train_images: int = 0
    num_reg_images: int = 0
    subsets: list[Subset] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Part:
    """Which part of the images is wanted, and by which rules."""

    validation: bool
    strict_compat: bool
    seed: int | None
    use_index: bool
    latents_cached: bool

    def as_trained(self, subset: Subset) -> bool:
        """sd-scripts builds a data set with masks for validation exactly like the one for training."""
        return self.strict_compat and subset.conditioning_data_dir is not None


@dataclass
class _Images:
    """What is known of a subset's images: paths in order, captions, sizes, what the tags are counted in, their masks.

    index: that of their folder, if it has one; names: all files in there.
    """

    paths: list[str]
    captions: dict[str, str]
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    counted: dict[str, str] | None = None
    masks: dict[str, Path] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    index: ImageIndex | None = None
    names: frozenset[str] = frozenset()


def register_images(
    settings: DatasetSettings,
    *,
    validation: bool,
    strict_compat: bool,
    validation_seed_default: int | None = None,
    skip_bad_images: bool = False,
    use_index: bool = True,
    latents_cached: bool = True,
) -> Registered:
    """The training part of a data set, or with `validation` the images held out from it, each once.

    validation_seed_default: decides which images are held out where the settings give no validation_seed.
    strict_compat: sd-scripts' rules (endings, empty captions, overlapping validation sets drawn from the global `random`).
    skip_bad_images: leave out images that cannot be used, or whose captions cannot, with a warning. use_index: large folders
    have an index (see image_index.py). latents_cached: every image is scaled to its bucket; if not, those that cannot be cut
    are bad. Training fills in img_count and tag_frequency of the settings' own subsets, validation those of copies.
    Raises ValueError naming all unreadable folders, images and captions, and missing masks, at once.
    """
    registered = Registered()
    regularisation: list[ImageRecord] = []
    problems: dict[str, str] = {}
    mistakes: list[str] = []
    for subset in _usable_subsets(settings.subsets, strict_compat, logging.DEBUG if validation else logging.WARNING):
        part = _Part(validation, strict_compat, _seed(settings, subset, validation_seed_default, strict_compat), use_index, latents_cached)
        try:
            images = _subset_images(subset, settings, part)
        except ValueError as mistake:
            mistakes.append(str(mistake))
            continue
        problems.update(images.problems)
        if validation:
            subset = dataclasses.replace(subset, num_repeats=subset.num_repeats if part.as_trained(subset) else 1)
        if not images.paths:
            if not validation and not images.problems and _share(settings, subset) < 1:
                logger.warning("%s has no images: left out", _name(subset))
            continue
        regularisation += _register(registered, subset, images, strict_compat)
    if problems and not skip_bad_images:
        mistakes.append(str(bad_images_error(problems)))
    if mistakes:
        raise ValueError("\n".join(mistakes))
    if problems:
        logger.warning("%s\nthey are left out (--skip_bad_images)", bad_images_message(problems))
    registered.problems = [f"{path}: {problem}" for path, problem in problems.items()]
    _balance(registered, regularisation)
    return registered


def _name(subset: Subset) -> str:
    return subset.metadata_file or subset.image_dir or ""


def _usable_subsets(subsets: Sequence[Subset], strict_compat: bool, level: int) -> list[Subset]:
    """The subsets to look into; a log line of `level` for each that repeats nothing, is there already, or has no folder."""
    usable, seen = [], set()
    for subset in subsets:
        name = _name(subset)
        identity = name if strict_compat else os.path.normpath(name)
        if subset.num_repeats < 1:
            logger.log(level, "%s: left out, num_repeats is %d", name, subset.num_repeats)
        elif identity in seen:
            logger.log(level, "%s: left out, an earlier subset of the same data set already has it", name)
        elif subset.metadata_file is None and not os.path.isdir(name):
            logger.log(level, "%s: left out, there is no such folder", name)
        else:
            seen.add(identity)
            usable.append(subset)
    return usable


def _seed(settings: DatasetSettings, subset: Subset, default: int | None, strict_compat: bool) -> int | None:
    """The seed of the validation split; None, only in strict_compat, means the global random numbers."""
    for seed in (subset.validation_seed, settings.validation_seed):
        if seed is not None:
            return seed
    return None if strict_compat else default or 0


def _share(settings: DatasetSettings, subset: Subset) -> float:
    return settings.validation_split if subset.validation_split is None else subset.validation_split


def split(paths: Sequence[str], share: float, seed: int | None, *, validation: bool, strict_compat: bool = False) -> list[str]:
    """The training part of `paths` in shuffled order, or the held-out rest; share 0 holds out nothing and shuffles nothing.

    strict_compat: the sizes are rounded separately, so an image can be in both parts; seed None shuffles with the global
    random numbers, and then the two calls do not fit together at all.
    """
    if share <= 0:
        return [] if validation else list(paths)
    order = list(paths)
    (random if seed is None else random.Random(seed)).shuffle(order)
    trained = math.ceil(len(order) * (1 - share))
    if not validation:
        return order[:trained]
    return order[len(order) - round(len(order) * share) :] if strict_compat else order[trained:]


def _subset_images(subset: Subset, settings: DatasetSettings, part: _Part) -> _Images:
    """The wanted part of a subset's images with all that is known about them, unreadable and too small ones removed."""
    share = _share(settings, subset)
    if part.validation and (subset.is_reg or share <= 0):
        return _Images([], {})
    if subset.metadata_file is not None:
        images = _metadata_images(subset, share, part)
    else:
        images = _folder_images(subset, share, part)
    unknown = [path for path in images.paths if path not in images.sizes and path not in images.problems]
    sizes, problems = probe_sizes(unknown, images.index)
    images.sizes |= sizes
    images.problems |= problems
    if images.index is not None:
        images.index.save(images.names)
    readable = {path: images.sizes[path] for path in images.paths if path not in images.problems}
    images.problems |= unusable_images(
        readable, images.masks, subset, settings, latents_cached=part.latents_cached, strict_compat=part.strict_compat
    )
    images.paths = [path for path in images.paths if path not in images.problems]
    if settings.skip_image_resolution is not None:
        _leave_out_small(images, settings.skip_image_resolution, subset)
    return images


def _leave_out_small(images: _Images, limit: tuple[int, int], subset: Subset) -> None:
    kept = [path for path in images.paths if math.prod(images.sizes[path]) > math.prod(limit)]
    if len(kept) < len(images.paths):
        logger.info("%s: %d images not larger than %dx%d left out", _name(subset), len(images.paths) - len(kept), *limit)
    images.paths = kept


def _folder_images(subset: Subset, share: float, part: _Part) -> _Images:
    """A folder's images; captions only of the wanted part, unless cache_info has or wants those of all."""
    folder, known, problems = _listing(subset, part.strict_compat)
    validation = part.validation and not part.as_trained(subset)
    paths = folder.images
    if not subset.is_reg:
        paths = split(paths, share, part.seed, validation=validation, strict_compat=part.strict_compat)
    images = _Images(paths, {}, {path: known[path][1] for path in paths if path in known}, names=folder.names)
    if known:
        images.captions = {path: known[path][0] for path in paths if path in known}
        images.problems = {path: problems[path] for path in paths if path in problems}
    else:
        if part.use_index and len(folder.images) >= INDEX_FROM:
            images.index = ImageIndex.of(folder.path)
        images.captions, images.problems = read_captions(
            paths, folder, subset, strict_compat=part.strict_compat, index=images.index
        )
    if folder.unreadable and part.strict_compat:
        logger.warning("%s: %d images are left out: %s", folder.path, len(folder.unreadable), next(iter(folder.unreadable.values())))
    elif not part.validation:
        images.problems |= folder.unreadable
    if subset.conditioning_data_dir:
        if subset.random_crop:
            raise ValueError(f"{_name(subset)}: random_crop cannot be used with conditioning_data_dir (masks)")
        images.masks, problems = pair_with_conditioning(folder.images, subset.conditioning_data_dir, any_case=not part.strict_compat)
        images.problems |= problems
    return images


def _listing(subset: Subset, strict_compat: bool) -> tuple[ImageFolder, dict, dict[str, str]]:
    """The folder's images; with cache_info also (caption, size) of each and the problems of those that have none.

    strict_compat: an existing metadata_cache.json is believed without looking into the folder.
    """
    known = read_info_cache(subset.image_dir) if subset.cache_info else None
    if strict_compat and known:
        return ImageFolder(subset.image_dir, list(known), frozenset()), known, {}
    folder = list_images(subset.image_dir, any_case=not strict_compat)
    if not subset.cache_info or not folder.images:
        return folder, {}, {}
    if known and is_up_to_date(known, folder, subset):
        return folder, known, {}
    captions, problems = read_captions(folder.images, folder, subset, strict_compat=strict_compat)
    sizes, unreadable = probe_sizes(folder.images)
    problems |= unreadable
    known = {path: (captions[path], size) for path, size in sizes.items() if path not in problems}
    if not problems:
        write_info_cache(subset.image_dir, known)
    return folder, known, problems


def _metadata_images(subset: Subset, share: float, part: _Part) -> _Images:
    entries = {entry.path or entry.key: entry for entry in read_metadata_file(subset, strict_compat=part.strict_compat)}
    # strict_compat: sd-scripts trains on and validates with all images of a metadata file
    paths = list(entries) if part.strict_compat else split(list(entries), share, part.seed, validation=part.validation)
    images = _Images(paths, {path: entries[path].caption for path in paths})
    images.counted = {path: entries[path].tags for path in paths}
    images.sizes = {path: entries[path].size for path in paths if entries[path].size}
    missing = "there is no such image" + (f" in {subset.image_dir}" if subset.image_dir else "")
    images.problems = {path: missing for path in paths if not entries[path].path}
    return images


def _register(registered: Registered, subset: Subset, images: _Images, strict_compat: bool) -> list[ImageRecord]:
    """Adds a subset's images to the training images; regularisation images are only counted, and returned."""
    subset.img_count = len(images.paths)
    counted = images.captions if images.counted is None else images.counted
    subset.tag_frequency = tag_frequency(counted[path] for path in images.paths)
    registered.subsets.append(subset)
    records = [
        ImageRecord(
            key=path,
            path=Path(path),
            caption=images.captions[path],
            subset=subset,
            num_repeats=subset.num_repeats,
            is_reg=subset.is_reg,
            size=images.sizes[path],
            conditioning_path=images.masks.get(path),
        )
        for path in images.paths
    ]
    logger.info("%s: %d images, each %d times", _name(subset), len(records), subset.num_repeats)
    if subset.is_reg:
        registered.num_reg_images += len(records) * subset.num_repeats
        return records
    registered.num_train_images += len(records) * subset.num_repeats
    again = [record for record in records if record.key in registered.records]
    if again:
        logger.warning("%s: %d images are in an earlier subset too; this one's settings count", _name(subset), len(again))
        if not strict_compat:
            registered.num_train_images -= sum(registered.records[record.key].num_repeats for record in again)
    registered.records |= {record.key: record for record in records}
    return []


def _balance(registered: Registered, regularisation: list[ImageRecord]) -> None:
    """Registers regularisation images until there are as many as training images, repeats counted.

    Each enters with its own repeats, in order; if all are in and more are needed, each in turn is repeated once more.
    Images beyond the need stay out.
    """
    wanted, count = registered.num_train_images, 0
    if registered.num_reg_images > wanted:
        logger.warning("%d regularisation images for %d training images: the rest is not used", registered.num_reg_images, wanted)
    first = True
    while regularisation and count < wanted:
        for record in regularisation:
            if first:
                registered.records[record.key] = record
                count += record.num_repeats
            else:
                record.num_repeats += 1
                count += 1
            if count >= wanted:
                break
        first = False
