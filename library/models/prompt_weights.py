"""Weights in captions, as web UIs write them: (more), [less], (exactly:1.3), with backslash escapes for brackets.

Pure text, no torch. A round bracket multiplies what it encloses by 1.1, a square one by 1 / 1.1, brackets multiply up.
"""

import re

ROUND = 1.1
SQUARE = 1 / 1.1

PIECES = re.compile(
    r"""
    \\(?P<escaped>[\\()\[\]])         # a backslash makes a bracket or a backslash plain text
    | (?P<lone_backslash>\\)          # any other backslash is dropped
    | :(?P<weight>[+-]?[.\d]+)\)      # the end of (text:1.3)
    | (?P<bracket>[()\[\]])
    | (?P<text>[^\\()\[\]:]+|:)
    """,
    re.VERBOSE,
)


def parse_weights(caption: str) -> list[tuple[str, float]]:
    """Splits a caption into (text, weight) fragments; neighbours of equal weight are one fragment.

    Closers without an opener, and `:number)` outside round brackets, are plain text; openers without a closer act to the end
    of the caption. Raises ValueError for a weight that is not a number.
    """
    fragments: list[list] = []
    openers: dict[str, list[int]] = {"(": [], "[": []}  # where each bracket that is still open begins in `fragments`

    def multiply(start: int, factor: float) -> None:
        for fragment in fragments[start:]:
            fragment[1] *= factor

    for piece in PIECES.finditer(caption):
        found, whole = piece.lastgroup, piece.group()
        if whole in openers:
            openers[whole].append(len(fragments))
        elif found == "weight" and openers["("]:
            multiply(openers["("].pop(), _weight(piece["weight"], caption))
        elif whole == ")" and openers["("]:
            multiply(openers["("].pop(), ROUND)
        elif whole == "]" and openers["["]:
            multiply(openers["["].pop(), SQUARE)
        elif found != "lone_backslash":
            fragments.append([piece["escaped"] or whole, 1.0])
    for start in openers["("]:
        multiply(start, ROUND)
    for start in openers["["]:
        multiply(start, SQUARE)
    return _merged(fragments)


def _weight(number: str, caption: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise ValueError(
            f"the weight {number!r} is not a number, in the caption or prompt {caption!r}; write a weight like (text:1.3)"
        ) from None


def _merged(fragments: list[list]) -> list[tuple[str, float]]:
    merged: list[tuple[str, float]] = []
    for text, weight in fragments:
        if merged and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + text, weight)
        else:
            merged.append((text, weight))
    return merged
