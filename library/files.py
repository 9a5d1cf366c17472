"""Writing files and folders so that a reader, or a kill at any moment, only ever sees whole ones."""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

OPEN_FILES_STAY = os.name == "nt"
"""Whether a file that is open cannot be renamed or replaced."""
PAUSES = (0.01, 0.03, 0.1, 0.3, 1.0, 2.0)
"""Seconds between attempts, about as long as a virus scanner looks at a file."""
LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?:[a-z0-9_]{8}\.tmp|unfinished|going)")
"""The temporary names used here, around the name that file or folder was to get."""
ANOTHER_RUNS = 3600.0
"""Seconds for which an unfinished file may still belong to another program that is writing it."""
WAITING = ".whole"
"""The ending of `replacement` names."""


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; afterwards its content is on disk and carries the name `path`.

    If the body raises, the temporary file is removed and whatever `path` named before stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        _rename(temporary, path)
    except OSError as fault:
        if fault.filename is None:  # a full disk is told without saying for which file
            fault.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _rename(source: Path, target: Path) -> None:
    """os.replace, but where another program holds one of the two open, as virus scanners do on Windows, it is tried for a while.

    Raises PermissionError that says so if it is held for longer than that.
    """
    for pause in (*PAUSES, None):
        try:
            os.replace(source, target)
            return
        except PermissionError as fault:
            if pause is None or not OPEN_FILES_STAY:
                told = f"{fault.strerror}: is it open in another program?" if OPEN_FILES_STAY else fault.strerror
                raise PermissionError(fault.errno, told, str(target)) from fault
        time.sleep(pause)


def room_left(path: str | Path, needed: int = 0) -> str:
    """What to say when `path` could not be written: how much is free there, and of `needed` bytes how much is missing."""
    folder = Path(path)
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    lacking = f", {needed / 2**20:.1f} MiB are needed: {(needed - free) / 2**20:.1f} MiB more" if needed > free else ""
    return f"{free / 2**20:.1f} MiB are free in {folder}{lacking}"


def _umask() -> int:
    """The process's file mode mask; the system can only tell it by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def unfinished_folder(path: str | Path) -> Path:
    """Where a folder that shall be named `path` is written: hidden beside it, under a name that all processes agree on."""
    path = Path(path)
    return path.with_name(f".{path.name}.unfinished")


def replacement(path: str | Path) -> Path:
    """Where a whole folder waits, for a moment, for the name `path` that an older one has. What a kill left there is whole."""
    path = Path(path)
    return path.with_name(f".{path.name}{WAITING}")


def begin_folder(path: str | Path) -> Path:
    """Makes the empty `unfinished_folder(path)`, without what a killed run left there."""
    unfinished = unfinished_folder(path)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    return unfinished


def finish_folder(path: str | Path) -> None:
    """Puts all of `unfinished_folder(path)` on disk and gives it the name `path`; what had the name before goes only after that."""
    path, unfinished = Path(path), unfinished_folder(path)
    for file in [file for file in unfinished.rglob("*") if file.is_file()]:
        with open(file, "rb+") as content:
            os.fsync(content.fileno())
    _sync_names(unfinished)
    whole = replacement(path)
    _remove_by_name(whole, path)
    if path.exists():
        _rename(unfinished, whole)
        before = _put_aside(path, path)
        _rename(whole, path)
        _sync_names(path.parent)
        shutil.rmtree(before)
    else:
        _rename(unfinished, path)
        _sync_names(path.parent)


def abandon_folder(path: str | Path) -> None:
    """Removes `unfinished_folder(path)`; what has the name `path` stays."""
    shutil.rmtree(unfinished_folder(path), ignore_errors=True)


def remove_folder(path: str | Path) -> None:
    """Removes a folder; its name goes first, so that a kill never leaves half of it under that name. None there is no error."""
    _remove_by_name(Path(path), Path(path))


def remove_leftovers(folder: str | Path, belongs: Callable[[str], bool], older_than: float = 0) -> int:
    """Removes what killed runs left in `folder` on the way to names for which `belongs` is true; returns how many files and folders.

    older_than: seconds; what changed later than that may be in the hands of another program. Whole replacements stay.
    """
    removed = 0
    for entry in os.scandir(folder) if Path(folder).is_dir() else ():
        found = LEFTOVER.fullmatch(entry.name)
        if not found or not belongs(found["name"]):
            continue
        try:
            if entry.stat(follow_symlinks=False).st_mtime > time.time() - older_than:
                continue
            shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else os.unlink(entry)
        except OSError:  # another process was faster, or it is not ours to remove
            continue
        removed += 1
    return removed


def _remove_by_name(folder: Path, path: Path) -> None:
    """Removes a folder that belongs to the name `path`, so that it loses its name before its first file."""
    aside = _put_aside(folder, path)
    if aside is not None:
        shutil.rmtree(aside)


def _put_aside(folder: Path, path: Path) -> Path | None:
    """Gives `folder` the hidden name of what is going from `path`, and returns that, None if there is no such folder."""
    if not folder.exists():
        return None
    aside = path.with_name(f".{path.name}.going")
    shutil.rmtree(aside, ignore_errors=True)
    _rename(folder, aside)
    return aside


def _sync_names(folder: Path) -> None:
    """Puts the names in `folder` on disk; Windows does that by itself and cannot open a folder."""
    if os.name == "nt":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def cache_folder() -> Path:
    """The user's folder for what outlives a run, in %LOCALAPPDATA%, $XDG_CACHE_HOME or ~/.cache. It may not exist yet."""
    caches = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(caches, "kohya_lora_trainer")
