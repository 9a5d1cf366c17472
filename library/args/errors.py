"""How mistakes of the person who typed the command are reported: one line, no traceback."""

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from library.strangers import StrangerFailed

logger = logging.getLogger(__name__)


class BadArguments(ValueError):
    """Options that cannot work. The message names the option, the value given and a way out."""


@contextmanager
def mistakes_end_the_program(hint: str = "(--console_log_level DEBUG shows where this arose)") -> Iterator[None]:
    """Turns a ValueError or OSError from the body into `error: message` on stderr and exit status 1.

    The traceback is shown only at --console_log_level DEBUG, which `hint` tells; that of code which is not ours stands below the
    message, unless it is a ValueError, which says by itself what is wrong. Every other exception passes unchanged.
    """
    try:
        yield
    except ValueError as mistake:
        logger.debug("where the error below arose", exc_info=mistake)
        print(f"error: {mistake}", file=sys.stderr)
        if isinstance(mistake, StrangerFailed) and not isinstance(mistake.__cause__, ValueError):
            traceback.print_exception(mistake.__cause__)
        elif hint and not isinstance(mistake, BadArguments):
            print(hint, file=sys.stderr)
        sys.exit(1)
    except OSError as fault:
        logger.debug("where the error below arose", exc_info=fault)
        place = f"{fault.filename}: " if fault.filename else ""
        print(f"error: {place}{fault.strerror or fault}", file=sys.stderr)
        if hint:
            print(hint, file=sys.stderr)
        sys.exit(1)
