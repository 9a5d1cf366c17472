"""The demo's concept, which the base model has never seen, and pictures of its own domain for regularisation.

    python -m examples.tiny_sd.concept examples/tiny_sd

Mikanbot is a round orange robot with two antennas with yellow tips, one big blue eye and grey limbs; we made it up.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from examples.tiny_sd.domain import COLOURS, SIDE, background, draw_picture, shade
from examples.tiny_sd.drawing import DARK, LIGHT, disc, grid, paint, segment

MASCOT_FOLDER = Path("mascot") / "10_mikanbot robot"
REG_FOLDER = Path("reg") / "1_robot"
LONG = 2 * SIDE
MASCOT = [  # width, height, background, gradient, body radius over the shorter side, arms, look, tilt
    (SIDE, SIDE, "blue", False, 0.28, "down", 0, 0.0),
    (SIDE, SIDE, "green", False, 0.28, "up", 0, 0.0),
    (SIDE, SIDE, "white", False, 0.27, "down", 1, 0.1),
    (SIDE, SIDE, "red", False, 0.27, "up", 0, -0.1),
    (SIDE, SIDE, "yellow", True, 0.28, "down", -1, 0.0),
    (SIDE, SIDE, "purple", False, 0.28, "up", -1, -0.1),
    (SIDE, SIDE, "white", True, 0.26, "up", 1, 0.0),
    (2 * SIDE, 2 * SIDE, "purple", False, 0.28, "down", 0, -0.05),
    (LONG, SIDE, "yellow", False, 0.27, "down", 0, 0.05),
    (LONG, SIDE, "blue", True, 0.28, "up", 0, -0.1),
    (SIDE, LONG, "red", False, 0.3, "down", -1, 0.1),
    (SIDE, LONG, "green", False, 0.29, "up", 1, 0.0),
]


def draw_mascot(rng, width, height, ground, gradient, scale, arms, look, tilt):
    """Mikanbot: a round orange robot, two antennas with yellow tips, one big blue eye, grey limbs.

    scale: body radius over the shorter side. arms: "up" or "down". look: -1 left .. 1 right. tilt: radians.
    """
    canvas = background(rng, width, height, shade(rng, ground), gradient)
    x, y = grid(width, height)
    r = scale * min(width, height)
    cx, cy = width / 2 + rng.uniform(-0.06, 0.06) * width, height * 0.55
    u = np.cos(tilt) * (x - cx) + np.sin(tilt) * (y - cy)
    v = np.cos(tilt) * (y - cy) - np.sin(tilt) * (x - cx)
    orange, grey, yellow = np.array((248, 142, 26)), np.array((120, 124, 134)), np.array((252, 222, 60))
    line = max(2.0, 0.09 * r)
    lift = -0.75 if arms == "up" else 0.7
    limbs = [segment(u, v, (s * 0.8 * r, 0.1 * r), (s * 1.4 * r, lift * r), 0.26 * r) for s in (-1, 1)]
    limbs += [segment(u, v, (s * 0.42 * r, 0.8 * r), (s * 0.5 * r, 1.3 * r), 0.32 * r) for s in (-1, 1)]
    antennas = [segment(u, v, (s * 0.35 * r, -0.8 * r), (s * 0.68 * r, -1.42 * r), 0.13 * r) for s in (-1, 1)]
    tips = [disc(u - s * 0.68 * r, v + 1.45 * r, 0.2 * r) for s in (-1, 1)]
    body = disc(u, v, r)
    for part in (*limbs, *antennas, *tips, body):
        paint(canvas, part - line, DARK)
    for part in limbs:
        paint(canvas, part, grey)
    for part in antennas:
        paint(canvas, part, DARK)
    for part in tips:
        paint(canvas, part, yellow)
    paint(canvas, body, orange)
    ex = 0.2 * r * look
    paint(canvas, disc(u - ex, v + 0.16 * r, 0.58 * r), DARK)
    paint(canvas, disc(u - ex, v + 0.16 * r, 0.5 * r), LIGHT)
    paint(canvas, disc(u - 1.5 * ex, v + 0.16 * r, 0.34 * r), COLOURS["blue"])
    paint(canvas, disc(u - 1.5 * ex + 0.12 * r, v + 0.3 * r, 0.11 * r), LIGHT)
    paint(canvas, segment(u, v, (-0.28 * r, 0.66 * r), (0.28 * r, 0.66 * r), 0.11 * r), DARK)
    return canvas.round().clip(0, 255).astype(np.uint8)


def save_pair(folder: Path, name: str, picture: np.ndarray, caption: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / f"{name}.png", optimize=True)
    (folder / f"{name}.txt").write_text(caption + "\n", encoding="utf-8")


def write_mascot(folder: Path) -> None:
    rng = np.random.default_rng(77)
    for number, (width, height, ground, gradient, scale, arms, look, tilt) in enumerate(MASCOT, 1):
        picture = draw_mascot(rng, width, height, ground, gradient, scale, arms, look, tilt)
        tags = ["mikanbot", "robot", f"{ground} background"] + ["gradient"] * gradient + [f"arms {arms}"]
        save_pair(folder, f"mikanbot_{number:02d}", picture, ", ".join(tags))


def write_reg(folder: Path, count: int = 24) -> None:
    rng = np.random.default_rng(99)
    for number in range(1, count + 1):
        width, height = ((SIDE, SIDE), (LONG, SIDE), (SIDE, LONG))[number % 3]
        save_pair(folder, f"reg_{number:02d}", *draw_picture(rng, width, height))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    write_mascot(options.out / MASCOT_FOLDER)
    write_reg(options.out / REG_FOLDER)


if __name__ == "__main__":
    main()
