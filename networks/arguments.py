"""Reading `--network_args key=value`: every value arrives as text, or as None for "not given"."""

import difflib
import logging
from collections.abc import Callable, Mapping
from typing import Any

logger = logging.getLogger(__name__)

WHAT_FITS = {int: "a whole number", float: "a number", str: "text"}


def boolean(text: str) -> bool:
    """true or false, 1 or 0, yes or no, in any case. Raises ValueError for anything else."""
    word = text.strip().lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off"):
        return False
    raise ValueError(text)


def probability(text: str) -> float:
    """A share of 0 up to but not including 1. Raises ValueError otherwise."""
    value = float(text)
    if not 0 <= value < 1:
        raise ValueError(text)
    return value


WHAT_FITS |= {boolean: "True or False", probability: "a number from 0 to below 1"}


def read_network_args(given: Mapping[str, Any], known: Mapping[str, Callable[[str], Any]], module: str) -> dict[str, Any]:
    """The value of every `known` key, read by its reader; None where it is absent or empty.

    Keys not in `known` cost one warning that proposes the nearest name. Raises ValueError naming key and value
    where the reader refuses the text.
    """
    unknown = [key for key in given if key not in known]
    if unknown:
        logger.warning("%s does not use these --network_args: %s", module, ", ".join(_with_nearest(key, known) for key in unknown))
    return {key: _read(key, given.get(key), reader, module) for key, reader in known.items()}


def _read(key: str, value: Any, reader: Callable[[str], Any], module: str) -> Any:
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    try:
        return reader(text)
    except ValueError as wrong:
        raise ValueError(f"--network_args {key}={value}: {module} needs {WHAT_FITS.get(reader, wrong)} here") from wrong


def _with_nearest(key: str, known: Mapping[str, Any]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1)
    return f"{key} (did you mean {nearest[0]}?)" if nearest else key
