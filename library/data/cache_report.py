"""What is said, in one line, of cache files that have to be made again, and of those that a killed run left unfinished."""

import logging
from collections.abc import Iterable
from pathlib import Path

from library.files import ANOTHER_RUNS, remove_leftovers

logger = logging.getLogger(__name__)

NAMED = 3


def log_stale(what: str, stale: list[tuple[str, Path]]) -> None:
    """stale: reason and file; files that are merely missing are not worth a word."""
    files: dict[str, list[str]] = {}
    for reason, path in stale:
        if reason != "missing":
            files.setdefault(reason, []).append(path.name)
    for reason, names in sorted(files.items()):
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        logger.warning("making %d %s again that are %s: %s%s", len(names), what, reason, ", ".join(names[:NAMED]), more)


def clear_leftovers(folders: Iterable[Path], suffix: str) -> None:
    """Removes what a killed run left half written of cache files with this ending. Younger ones may be another run's and stay."""
    removed = sum(remove_leftovers(folder, lambda name: name.endswith(suffix), older_than=ANOTHER_RUNS) for folder in folders)
    if removed:
        logger.info("unfinished cache files of a run that was killed are removed: %d", removed)
