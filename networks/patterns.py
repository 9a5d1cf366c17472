"""Choosing layers by regular expressions over their dotted paths: which to wrap, and ranks and rates of their own."""

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass

from networks.targets import Target


def pattern_list(text: str) -> list[re.Pattern]:
    """A Python list of regular expressions, or a single quoted one. Raises ValueError naming what is wrong."""
    try:
        value = ast.literal_eval(text)
    except SyntaxError:
        raise ValueError("a Python list of quoted patterns") from None
    return [_compiled(str(item)) for item in (value if isinstance(value, (list, tuple)) else [value])]


@dataclass(frozen=True)
class ByPattern:
    """Values for layers whose whole path a regular expression matches; the first match counts."""

    entries: tuple[tuple[re.Pattern, float], ...] = ()

    def index(self, path: str) -> int | None:
        """The number of the first matching expression."""
        return next((number for number, (pattern, _) in enumerate(self.entries) if pattern.fullmatch(path)), None)


def values_by_pattern(text: str) -> ByPattern:
    """`pattern=number,pattern=number`. Raises ValueError naming the entry that is wrong."""
    entries = []
    for item in text.split(","):
        pattern, equals, value = item.strip().rpartition("=")
        if not equals:
            raise ValueError(f"pattern=number pairs separated by commas, not {item.strip()!r},")
        entries.append((_compiled(pattern), float(value)))
    return ByPattern(tuple(entries))


def kept(targets: Iterable[Target], exclude: Iterable[re.Pattern] | None, include: Iterable[re.Pattern] | None) -> list[Target]:
    """The targets that no `exclude` pattern matches, or that an `include` pattern brings back."""

    def matches(patterns, path):
        return any(pattern.fullmatch(path) for pattern in patterns or ())

    return [target for target in targets if not matches(exclude, target.path) or matches(include, target.path)]


def _compiled(pattern: str) -> re.Pattern:
    try:
        return re.compile(pattern)
    except re.error as fault:
        raise ValueError(f"regular expressions, and {pattern!r} is none ({fault}),") from fault
