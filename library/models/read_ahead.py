"""Reads a model file while torch and the others are imported, so that it is in the system's memory when it is wanted. Without torch."""

import os
import threading
from contextlib import suppress
from pathlib import Path

PIECE = 16 << 20  # bytes
SHARE_OF_MEMORY = 0.5
"""Of what is available: a larger file would drive out what others need."""


def read_ahead(*paths: str | None) -> threading.Thread | None:
    """Begins to read these files in the background, in the first process of a machine; what is no file here is passed over.

    Imports leave the disk alone for seconds, and reading gigabytes from it takes as long. The thread ends with the program.
    """
    files = [Path(path) for path in paths if path and os.path.isfile(path)]
    if not files or os.environ.get("LOCAL_RANK", "0") != "0" or not fit_in_memory(files):
        return None
    reader = threading.Thread(target=_read, args=(files,), name="read ahead", daemon=True)
    reader.start()
    return reader


def fit_in_memory(files: list[Path]) -> bool:
    import psutil

    return sum(path.stat().st_size for path in files) <= SHARE_OF_MEMORY * psutil.virtual_memory().available


def _read(files: list[Path]) -> None:
    buffer = bytearray(PIECE)
    for path in files:
        with suppress(OSError), path.open("rb", buffering=0) as file:  # whoever needs the file tells what is wrong with it
            while file.readinto(buffer):
                pass
