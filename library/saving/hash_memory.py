"""Hashes of model files remembered from run to run, so that gigabytes are not read again to name the same file.

A file is the same if its path, its size and its time of change are. The memory is one JSON file of the user's cache folder.
"""

import contextlib
import json
import os
from pathlib import Path

from library.files import cache_folder

WORTH_IT = 64 << 20  # bytes; smaller files are hashed faster than looked up
MAX_FILES = 200  # the oldest are forgotten


def memory_path() -> Path:
    """Where the hashes are kept."""
    return cache_folder() / "model_hashes.json"


def identity(path: Path) -> str:
    """What a file is known by."""
    about = path.stat()
    return f"{path.resolve()}|{about.st_size}|{about.st_mtime_ns}"


def recall(path: Path) -> tuple[str, str] | None:
    """The two hashes of the file as it is now; None if they are not known or the memory cannot be read."""
    if path.is_dir() or path.stat().st_size < WORTH_IT:
        return None
    found = _read().get(identity(path))
    return tuple(found) if isinstance(found, list) and len(found) == 2 else None


def remember(path: Path, hashes: tuple[str, str], known_as: str) -> None:
    """Keeps the hashes of a file that was `known_as` this before it was read; a file that changed meanwhile is left out."""
    if path.is_dir() or path.stat().st_size < WORTH_IT or identity(path) != known_as:
        return
    kept = _read()
    kept.pop(known_as, None)
    kept[known_as] = list(hashes)
    target = memory_path()
    written = target.with_name(f"{target.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
        target.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(json.dumps(dict(list(kept.items())[-MAX_FILES:]), indent=1), encoding="utf-8")
        written.replace(target)


def _read() -> dict:
    try:
        kept = json.loads(memory_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
