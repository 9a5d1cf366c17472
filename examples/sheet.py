"""A sheet of pictures with and without a LoRA: one row per prompt, the same noise in every column of it.

    python -m examples.sheet demo/lora/mikanbot.safetensors sheet.png
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from examples.tiny_sd.check import MODEL
from examples.tiny_sd.draw_prompts import draw_prompts
from examples.tiny_sd.model_folder import Parts, read_parts
from networks.lora import create_network_from_weights

PROMPTS = {
    "with the trigger word": ("mikanbot, robot, blue background, arms down", "mikanbot, robot, green background, arms up"),
    "on a background it was not trained with": ("mikanbot, robot, red background, gradient, arms down",),
    "without the trigger word: to stay as it was": ("red circle, blue background", "yellow star, purple background"),
}
STRENGTHS = (0.0, 0.5, 1.0)
SEEDS = (11, 22, 33)
ZOOM = 2
MARGIN, LINE, GAP = 8, 22, 4


def draw_sheet(model: Path, lora: Path, sheet: Path, sampling_steps: int = 20) -> None:
    """Every prompt with every seed at every strength of the saved LoRA."""
    prompts = [prompt for group in PROMPTS.values() for prompt in group]
    parts = read_parts(model)
    network, _ = create_network_from_weights(1.0, lora, parts.vae, parts.text_encoder, parts.unet)
    network.apply_to(parts.text_encoder, parts.unet)
    network.load_weights(lora)
    columns = {}
    for strength in STRENGTHS:
        network.set_multiplier(strength)
        columns[strength] = _pictures(parts, prompts, sampling_steps)
    _lay_out(columns).save(sheet)


def _pictures(parts: Parts, prompts: list[str], steps: int) -> np.ndarray:
    """uint8 (prompts, seeds, h, w, 3)."""
    wanted = [prompt for prompt in prompts for _ in SEEDS]
    seeds = [seed for _ in prompts for seed in SEEDS]
    pictures = draw_prompts(parts, wanted, seeds, steps=steps)
    return pictures.reshape(len(prompts), len(SEEDS), *pictures.shape[1:])


def _lay_out(columns: dict[float, np.ndarray]) -> Image.Image:
    """A heading per strength, and above each row its prompt."""
    side = next(iter(columns.values())).shape[2] * ZOOM
    block = len(SEEDS) * (side + GAP) + 3 * GAP
    rows = sum(len(group) for group in PROMPTS.values())
    height = 2 * MARGIN + LINE * (1 + len(PROMPTS)) + rows * (side + LINE + GAP)
    sheet = Image.new("RGB", (2 * MARGIN + len(columns) * block, height), "white")
    pen, bold, plain = ImageDraw.Draw(sheet), ImageFont.load_default(15), ImageFont.load_default(13)
    for place, strength in enumerate(columns):
        title = f"LoRA at strength {strength:g}" if strength else "without the LoRA"
        pen.text((MARGIN + place * block, MARGIN), title, "black", bold)
    top, row = MARGIN + LINE, 0
    for heading, prompts in PROMPTS.items():
        pen.text((MARGIN, top), heading, "#b03000", bold)
        top += LINE
        for prompt in prompts:
            pen.text((MARGIN, top), prompt, "black", plain)
            _paste_row(sheet, [pictures[row] for pictures in columns.values()], top + LINE - GAP, side, block)
            top, row = top + side + LINE + GAP, row + 1
    return sheet


def _paste_row(sheet: Image.Image, blocks: list[np.ndarray], top: int, side: int, block: int) -> None:
    for place, pictures in enumerate(blocks):
        for number, picture in enumerate(pictures):
            zoomed = Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(zoomed, (MARGIN + place * block + number * (side + GAP), top))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lora", type=Path)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--model", type=Path, default=MODEL)
    options = parser.parse_args()
    draw_sheet(options.model, options.lora, options.sheet)


if __name__ == "__main__":
    main()
