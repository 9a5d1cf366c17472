"""Draws the training pictures into one file.

    python -m examples.tiny_sd.dataset vae.npz --pictures 5000 --clutter 7000 --seed 1
    python -m examples.tiny_sd.dataset unet.npz --pictures 30000 --wide 2500 --seed 2
"""

import argparse
from pathlib import Path

import numpy as np

from examples.tiny_sd.domain import SIDE, draw_clutter, draw_picture

WIDE = 3 * SIDE // 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pictures", type=int, default=0, help="square pictures of the domain")
    parser.add_argument("--wide", type=int, default=0, help=f"pictures of {WIDE}x{SIDE}, and as many of {SIDE}x{WIDE}")
    parser.add_argument("--clutter", type=int, default=0, help="square pictures for the autoencoder alone")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    arrays = {}
    sizes = {"square": (SIDE, SIDE, options.pictures), "wide": (WIDE, SIDE, options.wide), "tall": (SIDE, WIDE, options.wide)}
    for name, (width, height, count) in sizes.items():
        pairs = [draw_picture(rng, width, height) for _ in range(count)]
        if pairs:
            arrays[name], arrays[f"{name}_captions"] = (np.stack([p for p, _ in pairs]), np.array([c for _, c in pairs]))
    if options.clutter:
        arrays["clutter"] = np.stack([draw_clutter(rng) for _ in range(options.clutter)])
    np.savez(options.out, **arrays)


if __name__ == "__main__":
    main()
