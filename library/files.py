"""Writing files and folders so that a reader, or a kill at any moment, only ever sees whole ones."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
        os.replace(temporary, path)
    except OSError as fault:
        if fault.filename is None:  # a full disk is told without saying for which file
            fault.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """The process's file mode mask; the system can only tell it by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def unfinished_folder(path: str | Path) -> Path:
    """Where a folder that shall be named `path` is written: hidden beside it, under a name that all processes agree on."""
    path = Path(path)
    return path.with_name(f".{path.name}.unfinished")


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
    before = _put_aside(path)
    os.replace(unfinished, path)
    _sync_names(path.parent)
    if before is not None:
        shutil.rmtree(before)


def abandon_folder(path: str | Path) -> None:
    """Removes `unfinished_folder(path)`; what has the name `path` stays."""
    shutil.rmtree(unfinished_folder(path), ignore_errors=True)


def remove_folder(path: str | Path) -> None:
    """Removes a folder; its name goes first, so that a kill never leaves half of it under that name. None there is no error."""
    aside = _put_aside(Path(path))
    if aside is not None:
        shutil.rmtree(aside)


def _put_aside(path: Path) -> Path | None:
    """Gives what is at `path` a hidden name beside it and returns that, None if nothing is there."""
    if not path.exists():
        return None
    aside = path.with_name(f".{path.name}.going")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(path, aside)
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
