"""The base domain of the tiny model: one or two plain shapes on a background of another colour, with captions.

    python -m examples.tiny_sd.domain sheet.png     # a contact sheet, to look at
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from examples.tiny_sd.drawing import DARK, LIGHT, grid, paint, segment, shape_distance

COLOURS = {
    "red": (222, 40, 42), "yellow": (250, 218, 52), "green": (48, 165, 76),
    "blue": (44, 96, 218), "purple": (142, 62, 188), "white": (246, 246, 246),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
RADIUS = {"small": 0.25, "medium": 0.34, "large": 0.42}
"""Radius of the circle around a shape, over the picture's shorter side."""
SIDE = 64
"""Pixels of the usual picture's sides."""
PAIR = 0.12
GRADIENT = 0.12
"""Shares of the pictures with two objects and of those with a gradient in the background."""


def draw_picture(rng: np.random.Generator, width: int = SIDE, height: int = SIDE) -> tuple[np.ndarray, str]:
    """A picture of the domain, uint8 (height, width, 3), and its caption."""
    shape = SHAPES[rng.integers(len(SHAPES))]
    colour, ground = (str(name) for name in rng.choice(list(COLOURS), 2, replace=False))
    size = str(rng.choice(list(RADIUS), p=(0.2, 0.6, 0.2)))
    pair, gradient = rng.random() < PAIR, rng.random() < GRADIENT
    canvas = background(rng, width, height, shade(rng, colour=ground), gradient)
    fill = shade(rng, colour)
    radius = RADIUS[size] * min(width, height) * rng.uniform(0.94, 1.06) * (0.62 if pair else 1)
    x, y = grid(width, height)
    for cx, cy in _centres(rng, width, height, radius, pair):
        turn = rng.uniform(-0.12, 0.12)
        u, v = np.cos(turn) * (x - cx) + np.sin(turn) * (y - cy), np.cos(turn) * (y - cy) - np.sin(turn) * (x - cx)
        paint(canvas, shape_distance(shape, u, v, radius), fill)
    plural = {"cross": "crosses"}.get(shape, shape + "s")
    tags = [f"two {colour} {plural}" if pair else f"{colour} {shape}", f"{ground} background"]
    tags += ["gradient"] * gradient + [size] * (size != "medium")
    return canvas.round().clip(0, 255).astype(np.uint8), ", ".join(tags)


def _centres(rng, width, height, radius, pair) -> list[tuple[float, float]]:
    middle = width / 2, height / 2
    if not pair:
        slack = [max(0.0, side / 2 - 1.12 * radius) for side in (width, height)]
        return [tuple(m + rng.uniform(-0.5, 0.5) * min(s, 8) for m, s in zip(middle, slack, strict=True))]
    upright = height > width or (height == width and rng.random() < 0.5)
    apart = min(1.2 * radius, max(width, height) / 2 - radius)
    jitter = rng.uniform(-2, 2, 2)
    steps = [(0, s * apart) if upright else (s * apart, 0) for s in (-1, 1)]
    return [(middle[0] + dx + jitter[0], middle[1] + dy + jitter[1]) for dx, dy in steps]


def shade(rng: np.random.Generator, colour: str, spread: float = 8) -> np.ndarray:
    return np.clip(np.array(COLOURS[colour]) + rng.uniform(-spread, spread, 3), 0, 255)


def background(rng, width, height, base: np.ndarray, gradient: bool) -> np.ndarray:
    """float (height, width, 3): one colour, or from it to a paler one (a darker one for light colours)."""
    x, y = grid(width, height)
    mix = np.zeros(x.shape)
    if gradient:
        angle = rng.uniform(0, 2 * np.pi)
        along = np.cos(angle) * (x - width / 2) + np.sin(angle) * (y - height / 2)
        mix = np.clip(along / max(width, height) + 0.5, 0, 1)
    other = base + 0.6 * (LIGHT - base) if base.mean() < 190 else 0.62 * base
    return base + mix[..., None] * (other - base)


def draw_clutter(rng: np.random.Generator, width: int = SIDE, height: int = SIDE) -> np.ndarray:
    """Overlapping, nested and outlined shapes and lines of any colour: more than the domain, for the autoencoder alone."""
    canvas = background(rng, width, height, _any_colour(rng), rng.random() < 0.4)
    x, y = grid(width, height)
    for _ in range(rng.integers(1, 6)):
        cx, cy, turn = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, 2 * np.pi)
        radius = 4 + 22 * rng.random() ** 1.5
        u, v = np.cos(turn) * (x - cx) + np.sin(turn) * (y - cy), np.cos(turn) * (y - cy) - np.sin(turn) * (x - cx)
        if rng.random() < 0.3:
            distance = segment(u, v, (-radius, 0), (radius, 0), rng.uniform(2, 8))
        else:
            distance = shape_distance(SHAPES[rng.integers(len(SHAPES))], u, v, radius)
        if rng.random() < 0.4:
            paint(canvas, distance - rng.uniform(1.2, 3), DARK)
        paint(canvas, distance, _any_colour(rng))
        if rng.random() < 0.4:
            paint(canvas, np.hypot(u - rng.uniform(-2, 2), v) - radius * rng.uniform(0.3, 0.6), _any_colour(rng))
    return canvas.round().clip(0, 255).astype(np.uint8)


def _any_colour(rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.5:
        return shade(rng, list(COLOURS)[rng.integers(len(COLOURS))])
    return rng.uniform(0, 255, 3) if rng.random() < 0.7 else np.full(3, rng.uniform(0, 255))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sheet", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(5)
    rows = [[draw_picture(rng)[0] for _ in range(12)] for _ in range(5)]
    rows += [[draw_clutter(rng) for _ in range(12)] for _ in range(3)]
    Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows])).save(options.sheet)


if __name__ == "__main__":
    main()
