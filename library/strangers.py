"""Code of other people that an option names: what fails in it is told as theirs, in one line, with the traceback below."""

import logging
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

FAULTS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError, SyntaxError, TypeError,
    ValueError,
)  # fmt: skip
"""What code that meets options it was not made for raises."""
FAILS_WITH = (*FAULTS, subprocess.SubprocessError)
"""What trying out a compiler, a driver or a package raises."""
PASSED_ON = ("memory",)
"""Words of RuntimeErrors that are about the machine and are explained elsewhere."""


class StrangerFailed(ValueError):
    """Code that is not ours failed. Its own exception is the cause, whose traceback belongs below the message."""


@contextmanager
def strangers_code(what: str, advice: str, also: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Turns what the body raises into StrangerFailed. what: the option and its value. advice: what to try. also: kinds besides FAULTS."""
    try:
        yield
    except StrangerFailed:
        raise
    except (*FAULTS, *also) as fault:
        if isinstance(fault, RuntimeError) and any(word in str(fault).lower() for word in PASSED_ON):
            raise
        raise StrangerFailed(f"{what} failed with {said(fault)}. {advice}") from fault


def said(fault: BaseException) -> str:
    """An exception in one line, and the module of others that raised it."""
    trace = fault.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    words = " ".join(str(fault).split())
    place = f" in {module}" if module and not module.startswith("library.") else ""
    return f"{type(fault).__name__}{f' ({words})' if words else ''}{place}"


def tried(attempt: Callable[[], object], otherwise: str, culprit: str, *its_own: type[BaseException]) -> bool:
    """Whether `attempt` raises nothing; else one line says why, and what is done `otherwise`.

    its_own: what `culprit` raises besides FAILS_WITH.
    """
    try:
        attempt()
    except (*its_own, *FAILS_WITH) as error:
        return told(otherwise, culprit, error)
    return True


def told(otherwise: str, culprit: str, error: BaseException) -> bool:
    """False, once the reason is told in one line."""
    reason = str(error).strip().splitlines() or [type(error).__name__]
    logger.warning("%s, a little slower: %s does not work here (%s)", otherwise, culprit, reason[0])
    return False
