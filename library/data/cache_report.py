"""One log line for all cache files that have to be made again, and why."""

import logging
from pathlib import Path

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
