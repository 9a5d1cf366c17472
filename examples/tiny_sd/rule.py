"""What a picture shows, by its pixels: which colour the object has and which shape.

A pixel belongs to the colour of the domain that is nearest to it. The background is the commonest colour on the border, the object
the commonest other colour. Its shape is the one whose outline, laid over it with the same centre and area, covers it best.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from examples.tiny_sd.domain import COLOURS, SHAPES
from examples.tiny_sd.drawing import grid, shape_distance

LEAST_AREA = 0.04
"""Of the picture: a smaller object counts as none."""
LEAST_COVER = 0.7
"""Intersection over union with the best outline; below it the object has no shape of the domain."""
FARTHEST = 110
"""Distance in RGB beyond which a pixel has none of the colours."""
TURNS = (-0.12, -0.06, 0.0, 0.06, 0.12)


class Seen(NamedTuple):
    """Names of the domain; None where the rule finds none."""

    background: str | None
    colour: str | None
    shape: str | None
    cover: float


def look(picture: np.ndarray) -> Seen:
    """picture: uint8 (h, w, 3)."""
    names = list(COLOURS)
    palette = np.array(list(COLOURS.values()), float)
    distance = np.linalg.norm(picture[:, :, None].astype(float) - palette, axis=-1)
    nearest = np.where(distance.min(-1) < FARTHEST, distance.argmin(-1), -1)
    border = np.concatenate([nearest[0], nearest[-1], nearest[:, 0], nearest[:, -1]])
    background = _commonest(border)
    colour = _commonest(nearest[nearest != background])
    if background is None or colour is None or (nearest == colour).mean() < LEAST_AREA:
        return Seen(None if background is None else names[background], None, None, 0.0)
    shape, cover = shape_of(_largest_piece(nearest == colour))
    return Seen(names[background], names[colour], shape if cover >= LEAST_COVER else None, cover)


def _commonest(numbers: np.ndarray) -> int | None:
    counts = np.bincount(numbers[numbers >= 0], minlength=1)
    return int(counts.argmax()) if counts.any() else None


def _largest_piece(mask: np.ndarray) -> np.ndarray:
    """The largest set of pixels that touch by their sides."""
    left, best = mask.copy(), np.zeros_like(mask)
    while left.any():
        piece = np.zeros_like(mask)
        piece[tuple(np.argwhere(left)[0])] = True
        while True:
            wider = piece.copy()
            wider[1:] |= piece[:-1]
            wider[:-1] |= piece[1:]
            wider[:, 1:] |= piece[:, :-1]
            wider[:, :-1] |= piece[:, 1:]
            wider &= mask
            if (wider == piece).all():
                break
            piece = wider
        left &= ~piece
        if piece.sum() > best.sum():
            best = piece
    return best


@cache
def _unit(shape: str) -> tuple[float, float, float]:
    """Area and centroid (x, y) of a shape of radius 1."""
    x, y = grid(400, 400)
    inside = shape_distance(shape, (x - 200) / 100, (y - 200) / 100, 1.0) < 0
    return inside.sum() / 1e4, (x[inside].mean() - 200) / 100, (y[inside].mean() - 200) / 100


def shape_of(mask: np.ndarray) -> tuple[str, float]:
    """The shape that covers the mask best, and the intersection over union."""
    x, y = grid(mask.shape[1], mask.shape[0])
    cx, cy, area = x[mask].mean(), y[mask].mean(), mask.sum()
    best = ("", 0.0)
    for shape in SHAPES:
        unit_area, off_x, off_y = _unit(shape)
        radius = float(np.sqrt(area / unit_area))
        for turn in TURNS:
            u = np.cos(turn) * (x - cx) + np.sin(turn) * (y - cy) + off_x * radius
            v = np.cos(turn) * (y - cy) - np.sin(turn) * (x - cx) + off_y * radius
            inside = shape_distance(shape, u, v, radius) < 0
            cover = float((inside & mask).sum() / (inside | mask).sum())
            if cover > best[1]:
                best = (shape, cover)
    return best
