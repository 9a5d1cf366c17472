"""The index of a large image folder: sizes and captions of its files, so that a second start need not open them again.

A JSON file beside the images, or, where that cannot be written, in the user's folder for caches:
{"version", "sizes": {name: [bytes, mtime_ns, [width, height]]}, "captions": {name: [bytes, mtime_ns, text]}}.
An entry counts only while size and time of its file are those noted. Several processes may read and write it at once: it is
replaced whole, and whichever comes last is right.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from library.files import cache_folder, written_whole

logger = logging.getLogger(__name__)

FILE_NAME = ".image_index.json"
VERSION = 1
INDEX_FROM = 2000
"""Folders with fewer images are read as fast without an index."""
SETTLED_NS = 2 * 10**9
"""A file changed less than this before it was read may change again without its time showing it: it is not noted."""

Table = dict[str, list]
"""File name -> [bytes, mtime_ns, what the file says]."""


class ImageIndex:
    """What is known of one folder. Ask `size` and `caption` for files, then `save`."""

    def __init__(self, folder: str, sizes: Table | None = None, captions: Table | None = None):
        self.folder = os.path.split(os.path.join(folder, ""))[0]
        self.sizes: Table = sizes or {}
        self.captions: Table = captions or {}
        self.read_anew = 0

    @classmethod
    def of(cls, folder: str) -> "ImageIndex":
        """The folder's index as it was last saved; an empty one if there is none, or none that can be used."""
        for path in _places(folder):
            if not path.is_file():
                continue
            try:
                return cls(folder, *_tables(json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                logger.warning("the image index %s cannot be used (%s), the folder is read again", path, error)
        return cls(folder)

    def size(self, path: str, measure: Callable[[str], tuple[int, int]]) -> tuple[int, int]:
        """(width, height) of the image, from `measure` if the index does not know it; errors of `measure` pass."""
        width, height = self._fact(self.sizes, path, measure)
        return width, height

    def caption(self, path: str, read: Callable[[str], str]) -> str:
        """The text of the caption file, from `read` if the index does not know it; errors of `read` pass."""
        return self._fact(self.captions, path, read)

    def _fact(self, table: Table, path: str, find: Callable[[str], Any]) -> Any:
        folder, name = os.path.split(path)
        if folder != self.folder:
            return find(path)
        state = os.stat(path)
        entry = table.get(name)
        if entry is not None and entry[0] == state.st_size and entry[1] == state.st_mtime_ns:
            return entry[2]
        fact = find(path)
        table[name] = [state.st_size, state.st_mtime_ns, fact]
        self.read_anew += 1
        return fact

    def save(self, names: frozenset[str]) -> None:
        """Writes the index if anything was read anew. names: the files the folder holds now; others are forgotten."""
        if not self.read_anew:
            return
        before = time.time_ns() - SETTLED_NS
        tables = {
            kind: {name: entry for name, entry in table.items() if name in names and entry[1] < before}
            for kind, table in (("sizes", self.sizes), ("captions", self.captions))
        }
        text = json.dumps({"version": VERSION, **tables}, separators=(",", ":"))
        problems = []
        for path in _places(self.folder):
            try:
                with written_whole(path) as temporary:
                    temporary.write_text(text, encoding="utf-8")
                return
            except OSError as error:
                problems.append(f"{path}: {error.strerror or error}")
        logger.warning("no image index could be written, the next start reads all files again: %s", "; ".join(problems))


def _places(folder: str) -> tuple[Path, Path]:
    """Where a folder's index may lie, the better place first."""
    name = hashlib.sha256(os.path.abspath(folder).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    return Path(folder, FILE_NAME), Path(cache_folder(), "image_index", f"{name}.json")


def _tables(content: Any) -> tuple[Table, Table]:
    """Sizes and captions. Raises ValueError, KeyError, TypeError or AttributeError for anything but what `save` writes."""
    if content["version"] != VERSION:
        raise ValueError(f"it has the form of another version, {content['version']}")
    sizes, captions = content["sizes"], content["captions"]
    for _, _, (width, height) in sizes.values():
        if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
            raise ValueError(f"it says {width}x{height} for an image")
    for _, _, text in captions.values():
        if not isinstance(text, str):
            raise ValueError("it has a caption that is no text")
    return sizes, captions
