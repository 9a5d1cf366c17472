"""Progress bars on a console that may be a file on a full disk: what cannot be shown is left out and the work goes on."""

import sys
from typing import Any

from tqdm import tqdm


class Patient:
    """The stream `sys.<name>`, whichever it is at the moment, but an OSError while writing is passed over."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(getattr(sys, self._name), attribute)

    def write(self, text: str) -> int:
        try:
            return getattr(sys, self._name).write(text)
        except OSError:
            return 0

    def flush(self) -> None:
        try:
            getattr(sys, self._name).flush()
        except OSError:
            return


def progress_bar(*iterable: Any, **options: Any) -> tqdm:
    """A bar of tqdm on stderr, with its arguments."""
    return tqdm(*iterable, file=Patient("stderr"), **options)
