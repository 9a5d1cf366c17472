"""Ends a run on Ctrl-C or SIGTERM with nothing lost: after the update in progress the LoRA and the training state are saved."""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

NAMES = ("SIGINT", "SIGTERM", "SIGBREAK")
"""Ctrl-C, a job scheduler's request, and on Windows Ctrl-Break, which is also what a parent process can send there."""


class StopRequest:
    """Whether somebody asked the run to end. `received` is the signal's number, None before."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __bool__(self) -> bool:
        return self.received is not None

    @contextmanager
    def listening(self, on_request: Callable[[], None]) -> Iterator[None]:
        """Inside, the first signal only notes the request and calls `on_request`; a second one acts as it always did.

        Does nothing outside the main thread, where Python takes no signals.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
        before = {number: signal.getsignal(number) or signal.SIG_DFL for number in numbers}  # None: set by another than Python

        def note(number, frame):
            self.received = number
            for one, handler in before.items():
                signal.signal(one, handler)
            print("\nstopping after this step; once more to stop at once", file=sys.stderr, flush=True)
            on_request()

        for number in numbers:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Stopped(SystemExit):
    """The run ended on request, with everything saved: exit status 128 + the signal's number."""

    def __init__(self, request: StopRequest):
        super().__init__(128 + (request.received or signal.SIGINT))
