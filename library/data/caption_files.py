"""Captions beside their images: finding, reading and counting them."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from library.data.folders import ImageFolder
from library.data.image_index import ImageIndex
from library.data.subsets import Subset
from library.data.threads import map_in_threads

logger = logging.getLogger(__name__)

BYTE_ORDER_MARK = "\ufeff"
LISTED_MISSING = 5


@dataclass
class _Read:
    """What came of looking for one image's caption: its text, None if there is no file; or what is wrong with it."""

    text: str | None = None
    file: str | None = None
    problem: str | None = None


def read_captions(
    images: Sequence[str], folder: ImageFolder, subset: Subset, *, strict_compat: bool, index: ImageIndex | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """The caption of each image; where there is no file, the subset's class tokens or "", with one warning for all.

    Second, for each image whose caption file is not UTF-8 text or cannot be read, what is wrong with that; it has no caption.
    Without enable_wildcard a caption is the first line, with it all lines that are not blank.
    strict_compat: a byte order mark stays in the caption, and an empty caption file is a problem instead of "".
    index: what is known of the folder; captions whose files have not changed since are not read again.
    """
    lookup = FileLookup(folder)

    def read(image: str) -> _Read:
        return _read(caption_file(image, subset.caption_extension, lookup), subset.enable_wildcard, strict_compat, index)

    found = dict(zip(images, map_in_threads(read, images), strict=True))
    problems = {image: f"its caption {one.file} {one.problem}" for image, one in found.items() if one.problem}
    empty = [one.file for one in found.values() if one.text == "" and one.file and not os.path.getsize(one.file)]
    if empty:
        logger.warning("%d caption files are empty and train as empty captions: %s", len(empty), _some(empty))
    _warn_missing([image for image, one in found.items() if one.file is None], len(images), folder, subset)
    substitute = subset.class_tokens or ""
    captions = {image: substitute if one.text is None else one.text for image, one in found.items() if not one.problem}
    return captions, problems


class FileLookup:
    """Whether a file exists, from one listing of the images' folder instead of one question per file."""

    def __init__(self, folder: ImageFolder):
        self.directory = os.path.split(os.path.join(folder.path, ""))[0]
        self.names = {os.path.normcase(name) for name in folder.names}

    def __contains__(self, path: str) -> bool:
        directory, name = os.path.split(path)
        if directory == self.directory:
            return os.path.normcase(name) in self.names
        return os.path.isfile(path)


def caption_file(image: str, extension: str, lookup: FileLookup) -> str | None:
    """The caption of `image`: same name with `extension`, else the name without four trailing _parts (face position).

    As in sd-scripts the parts are those of the whole path, so that underscores in folder names count.
    """
    stem = os.path.splitext(image)[0]
    if stem + extension in lookup:
        return stem + extension
    parts = stem.split("_")
    if len(parts) >= 5 and "_".join(parts[:-4]) + extension in lookup:
        return "_".join(parts[:-4]) + extension
    return None


def _read(path: str | None, all_lines: bool, strict_compat: bool, index: ImageIndex | None) -> _Read:
    if path is None:
        return _Read()
    try:
        text = _text(path) if index is None else index.caption(path, _text)
    except UnicodeDecodeError:
        return _Read(file=path, problem="is not UTF-8 text, save it again as UTF-8")
    except OSError as error:
        return _Read(file=path, problem=f"cannot be read: {error.strerror or error}")
    if not text and strict_compat:
        return _Read(file=path, problem="is empty, write a caption into it or delete it")
    if not strict_compat:
        text = text.removeprefix(BYTE_ORDER_MARK)
    lines = [line.strip() for line in text.split("\n")]
    return _Read("\n".join(line for line in lines if line) if all_lines else lines[0], path)


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _warn_missing(missing: list[str], count: int, folder: ImageFolder, subset: Subset) -> None:
    if not missing:
        return
    instead = f"{subset.class_tokens!r} is used" if subset.class_tokens is not None else "they train with an empty caption"
    message = f"{len(missing)} of {count} images have no caption file ({subset.caption_extension}), {instead}: {_some(missing)}"
    others = {ending for ending in (".txt", ".caption") if ending != subset.caption_extension}
    unread = sorted(ending for ending in others if any(name.endswith(ending) for name in folder.names))
    if len(missing) == count and unread:
        message += f" (the folder has {' and '.join(unread)} files: is --caption_extension right?)"
    logger.warning("%s", message)


def _some(paths: Sequence[str]) -> str:
    more = f", and {len(paths) - LISTED_MISSING} more" if len(paths) > LISTED_MISSING else ""
    return ", ".join(paths[:LISTED_MISSING]) + more


def tag_frequency(captions: Iterable[str]) -> dict[str, int]:
    """How often each tag occurs, in order of first occurrence: captions cut at commas, lower case, repeats not counted."""
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(tag for part in caption.split(",") if (tag := part.strip().lower()))
    return dict(counts)


def without_tags(frequency: dict[str, int], caption: str) -> dict[str, int]:
    """The counts less those of one caption's tags; tags that are left with none are gone."""
    counts = Counter(frequency)
    counts.subtract(tag_frequency([caption]))
    return {tag: count for tag, count in counts.items() if count > 0}
