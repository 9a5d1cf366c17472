"""Code of other people that an option names: what fails in it is told as theirs, in one line, with the traceback below."""

from collections.abc import Iterator
from contextlib import contextmanager

FAULTS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError, SyntaxError, TypeError,
    ValueError,
)  # fmt: skip
"""What code that meets options it was not made for raises."""
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
