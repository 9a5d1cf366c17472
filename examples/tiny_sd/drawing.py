"""Drawing with signed distance fields (negative inside a shape, in pixels): edges come out smooth. Needs NumPy alone."""

import numpy as np

DARK, LIGHT = np.array((26.0, 26.0, 32.0)), np.array((240.0, 240.0, 240.0))


def disc(x, y, radius):
    return np.hypot(x, y) - radius


def segment(x, y, start, end, thickness):
    """A line with round ends from `start` to `end`."""
    (ax, ay), (bx, by) = start, end
    dx, dy = bx - ax, by - ay
    along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
    return np.hypot(x - ax - along * dx, y - ay - along * dy) - thickness / 2


def polygon(x, y, corners):
    """Exact distance to a simple polygon; the sign comes from counting crossed edges."""
    distance = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0)):
        distance = np.minimum(distance, segment(x, y, (ax, ay), (bx, by), 0))
        crosses = ((ay > y) != (by > y)) & (x < (bx - ax) * (y - ay) / (by - ay + 1e-12) + ax)
        inside ^= crosses
    return np.where(inside, -distance, distance)


def wheel(count, radius, inner=None):
    """Corners of a regular polygon pointing up, or of a star if `inner` radius is given."""
    n = count * (2 if inner else 1)
    angle = 2 * np.pi * np.arange(n) / n - np.pi / 2
    radii = np.where(np.arange(n) % 2, inner or radius, radius)
    return np.stack([radii * np.cos(angle), radii * np.sin(angle)], axis=1)


def shape_distance(name, x, y, r):
    """Distance field of a shape, centred on 0, that fits a circle of radius r; y points down."""
    if name == "circle":
        return disc(x, y, 0.9 * r)
    if name == "square":
        return polygon(x, y, 0.8 * r * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]))
    if name == "triangle":
        return polygon(x, y - 0.15 * r, wheel(3, 1.1 * r))
    if name == "star":
        return polygon(x, y, wheel(5, 1.1 * r, 0.47 * r))
    if name == "heart":
        lobes = np.minimum(disc(x - 0.45 * r, y + 0.3 * r, 0.53 * r), disc(x + 0.45 * r, y + 0.3 * r, 0.53 * r))
        point = polygon(x, y, r * np.array([(-0.86, 0.04), (0, -0.35), (0.86, 0.04), (0, 0.98)]))
        return np.minimum(lobes, point)
    if name == "cross":
        a, b = 0.95 * r, 0.33 * r
        return polygon(x, y, np.array([(-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b),
                                       (b, a), (-b, a), (-b, b), (-a, b), (-a, -b), (-b, -b)]))
    raise ValueError(f"unknown shape {name!r}")


def grid(width, height):
    y, x = np.mgrid[0:height, 0:width].astype(np.float64) + 0.5
    return x, y


def paint(canvas, distance, colour):
    alpha = np.clip(0.5 - distance, 0, 1)[..., None]
    canvas += alpha * (np.asarray(colour, np.float64) - canvas)
