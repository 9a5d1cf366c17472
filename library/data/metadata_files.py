"""The metadata files of the fine-tuning method: one .json or .jsonl file with captions, tags and sizes of all images."""

import json
import os
from dataclasses import dataclass
from typing import Any

from library.data.folders import image_extensions
from library.data.subsets import Subset


@dataclass(frozen=True)
class MetadataEntry:
    """One image of a metadata file. path: "" if the key leads to no file, then `key` is what was looked for."""

    key: str
    path: str
    caption: str
    tags: str
    size: tuple[int, int] | None


def read_metadata_file(subset: Subset, *, strict_compat: bool) -> list[MetadataEntry]:
    """The file's images, longest key first as in sd-scripts, each with its caption as the subset wants it.

    A key without an ending, as the merging tools write it, is resolved to the image of that name.
    strict_compat: with enable_wildcard, an image with tags but a blank caption loses its tags.
    Raises ValueError if the file is missing, damaged, or has relative keys and the subset no image_dir.
    """
    content = _read(subset.metadata_file)
    relative = [key for key in content if not os.path.isabs(key)]
    if relative and not subset.image_dir:
        raise ValueError(
            f"metadata_file {subset.metadata_file}: {len(relative)} keys are no full paths ({relative[0]!r} ...): "
            "give the folder of the images as image_dir (with --in_json: --train_data_dir)"
        )
    finder = _ImageFinder()
    entries = []
    for key in sorted(content, key=len, reverse=True):
        facts = content[key]
        path = finder.find(key if os.path.isabs(key) else os.path.join(subset.image_dir, key))
        caption, tags = facts.get("caption") or "", facts.get("tags") or ""
        text = joined_caption(caption, tags, subset, strict_compat=strict_compat)
        entries.append(MetadataEntry(key, path, text, tags, _size(facts, key, subset)))
    return entries


def _read(path: str) -> dict[str, dict[str, Any]]:
    if not os.path.isfile(path):
        raise ValueError(f"metadata_file {path}: there is no such file")
    try:
        with open(path, encoding="utf-8-sig") as file:
            if not path.endswith(".jsonl"):
                content = json.load(file)
            else:
                rows = [json.loads(line) for line in file if line.strip()]
                content = {row["image_path"]: row for row in rows}
    except KeyError as error:
        raise ValueError(f"metadata_file {path} cannot be used: a line has no {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"metadata_file {path} cannot be used, it is not whole JSON in UTF-8: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(facts, dict) for facts in content.values()):
        raise ValueError(f'metadata_file {path} must hold one object {{"image": {{"caption": ..., "tags": ...}}, ...}}')
    for key, facts in content.items():
        for name in ("caption", "tags"):
            if not isinstance(facts.get(name) or "", str):
                raise ValueError(f"metadata_file {path}: {name} of {key!r} must be text, got {facts[name]!r}")
    return content


def _size(facts: dict, key: str, subset: Subset) -> tuple[int, int] | None:
    size = facts.get("image_size")
    if size is None:
        return None
    if not isinstance(size, list) or len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size):
        raise ValueError(f"metadata_file {subset.metadata_file}: image_size of {key!r} must be [width, height], got {size!r}")
    return size[0], size[1]


def joined_caption(caption: str, tags: str, subset: Subset, *, strict_compat: bool) -> str:
    """Caption and tags as one text, joined with caption_separator alone; with enable_wildcard, tags join every line."""
    separator = subset.caption_separator
    if not tags:
        return caption
    if not subset.enable_wildcard:
        return f"{caption}{separator}{tags}" if caption else tags
    tags = tags.replace("\n", separator)
    lines = [line for line in caption.split("\n") if line.strip()]
    if not lines and not strict_compat:
        return tags
    return "\n".join(f"{line}{separator}{tags}" for line in lines)


class _ImageFinder:
    """Finds files by one listing per folder. A path without a known image ending also matches that name plus one."""

    def __init__(self):
        self.listings: dict[str, tuple[set[str], dict[str, str]]] = {}

    def find(self, path: str) -> str:
        """The path itself, or with the ending it lacks; "" if there is no such image."""
        directory, name = os.path.split(path)
        if directory not in self.listings:
            self.listings[directory] = self._listing(directory)
        names, by_stem = self.listings[directory]
        if name in names or os.path.isfile(path):
            return path
        return os.path.join(directory, by_stem[name]) if name in by_stem else ""

    @staticmethod
    def _listing(directory: str) -> tuple[set[str], dict[str, str]]:
        names = sorted(os.listdir(directory or ".")) if os.path.isdir(directory or ".") else []
        by_stem: dict[str, str] = {}
        for name in names:
            stem, ending = os.path.splitext(name)
            if ending.lower() in image_extensions():
                by_stem.setdefault(stem, name)
        return set(names), by_stem
