"""Does the model draw the asked shape in the asked colour? Judged by the pixel rule of rule.py.

    python -m examples.tiny_sd.check                       # 100 prompts on examples/tiny_sd/model
    python -m examples.tiny_sd.check --sheet samples.png   # and the pictures, wrong ones with a red frame

Exit status 0 if at least 80 % are right.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from examples.tiny_sd.domain import COLOURS, SHAPES
from examples.tiny_sd.draw_prompts import draw_prompts
from examples.tiny_sd.model_folder import Parts, read_parts
from examples.tiny_sd.rule import Seen, look

MODEL = Path(__file__).parent / "model"
PROMPTS_SEED = 2024
LEAST = 0.8


def asked(count: int, seed: int = PROMPTS_SEED) -> list[tuple[str, str, str]]:
    """(colour, shape, background): shapes in turn, colours at random."""
    rng = np.random.default_rng(seed)
    pairs = [tuple(str(name) for name in rng.choice(list(COLOURS), 2, replace=False)) for _ in range(count)]
    return [(colour, SHAPES[i % len(SHAPES)], ground) for i, (colour, ground) in enumerate(pairs)]


def check(parts: Parts, count: int, seed: int = 0) -> tuple[list[tuple[str, str, str]], list[Seen], np.ndarray]:
    """What was asked, what the rule saw, and the pictures."""
    wishes = asked(count)
    prompts = [f"{colour} {shape}, {ground} background" for colour, shape, ground in wishes]
    pictures = draw_prompts(parts, prompts, range(seed, seed + count))
    return wishes, [look(picture) for picture in pictures], pictures


def is_right(wish: tuple[str, str, str], seen: Seen) -> bool:
    """The asked shape in the asked colour; the background is counted on its own."""
    return (seen.colour, seen.shape) == wish[:2]


def write_sheet(path: Path, pictures: np.ndarray, right: list[bool], columns: int = 12) -> None:
    framed = np.full((len(pictures), 70, 70, 3), 255, np.uint8)
    for frame, picture, good in zip(framed, pictures, right, strict=True):
        if not good:
            frame[:] = (255, 0, 0)
        frame[3:67, 3:67] = picture
    blank = np.full((-len(framed) % columns, 70, 70, 3), 255, np.uint8)
    cells = np.concatenate([framed, blank]).reshape(-1, columns, 70, 70, 3)
    Image.fromarray(cells.transpose(0, 2, 1, 3, 4).reshape(-1, columns * 70, 3)).save(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=MODEL, help="a diffusers folder (default: the one that comes with this)")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first picture's noise")
    parser.add_argument("--sheet", type=Path, help="writes the pictures there")
    options = parser.parse_args()
    wishes, sights, pictures = check(read_parts(options.model), options.prompts, options.seed)
    right = [is_right(wish, seen) for wish, seen in zip(wishes, sights, strict=True)]
    shares = {
        "shape and colour": np.mean(right),
        "colour": np.mean([wish[0] == seen.colour for wish, seen in zip(wishes, sights, strict=True)]),
        "shape": np.mean([wish[1] == seen.shape for wish, seen in zip(wishes, sights, strict=True)]),
        "background": np.mean([wish[2] == seen.background for wish, seen in zip(wishes, sights, strict=True)]),
    }
    for name, share in shares.items():
        print(f"{name:18} {100 * share:5.1f} %")
    if options.sheet:
        write_sheet(options.sheet, pictures, right)
    return 0 if shares["shape and colour"] >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
