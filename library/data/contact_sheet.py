"""The contact sheet of --debug_dataset: what training would see, sample by sample, as a page and as one picture.

index.html (with thumbnails/) shows each image after crop, flip and colour change with the caption as trained; sheet.png is the
same at a glance. What a mask hides from the loss is darkened.
"""

import html
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from library.data.batch import Batch
from library.data.fonts import font_for
from library.data.pixels import colors

MOST_SHOWN = 200
THUMBNAIL = 256
"""Longest side in pixels."""
COLUMNS, CELL, LINE, LINES = 6, 200, 13, 4
HIDDEN = 0.3
"""How much light is left where a mask hides the image."""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px/1.4 sans-serif; margin: 1.5em; background: #fafafa; color: #222 }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 1em }}
figure {{ margin: 0; padding: .6em; background: #fff; border: 1px solid #ddd; overflow-wrap: anywhere }}
img {{ max-width: 100%; display: block; margin-bottom: .4em }}
small {{ color: #666 }}
</style></head><body>
<h1>{title}</h1>
<p>{summary}</p>
<pre>{table}</pre>
<main>
{figures}
</main></body></html>
"""


@dataclass(frozen=True)
class Shown:
    """One sample on the sheet. Sizes are (width, height) in pixels, crop is (left, top) in the resized image."""

    thumbnail: Image.Image
    name: str
    path: str
    caption: str
    bucket: tuple[int, int]
    original: tuple[int, int]
    crop: tuple[int, int]
    flipped: bool
    loss_weight: float
    batch: int

    def facts(self) -> str:
        """The line below an image."""
        parts = [f"batch {self.batch}", f"bucket {self.bucket[0]}x{self.bucket[1]}", f"from {self.original[0]}x{self.original[1]}"]
        parts += [f"crop at {self.crop[0]},{self.crop[1]}"] if any(self.crop) else []
        parts += ["flipped"] if self.flipped else []
        return ", ".join([*parts, f"loss weight {self.loss_weight:g}"])


def write_contact_sheet(batches: Iterable[Batch], samples_per_epoch: int, table: str, folder: Path, most: int = MOST_SHOWN) -> int:
    """Writes index.html, thumbnails/ and sheet.png into `folder`; returns how many samples they show, `most` at the most.

    batches: those of one epoch, with images. table: the overview of buckets. No more batches are built than are shown.
    """
    shown = list(itertools.islice(_samples(batches), most))
    thumbnails = folder / "thumbnails"
    thumbnails.mkdir(parents=True, exist_ok=True)
    for old in thumbnails.glob("[0-9]*.png"):
        old.unlink()
    for number, sample in enumerate(shown, 1):
        sample.thumbnail.save(thumbnails / f"{number:04d}.png")
    left = samples_per_epoch - len(shown)
    summary = f"{len(shown)} of the {samples_per_epoch} samples of the first epoch, in the order of training"
    summary += f"; the other {left} are not shown." if left > 0 else "."
    page = PAGE.format(
        title="Training data",
        summary=summary + " Dark areas are hidden from the loss by a mask.",
        table=html.escape(table),
        figures="\n".join(_figure(number, sample) for number, sample in enumerate(shown, 1)),
    )
    (folder / "index.html").write_text(page, encoding="utf-8")
    _sheet(shown).save(folder / "sheet.png")
    return len(shown)


def _samples(batches: Iterable[Batch]) -> Iterator[Shown]:
    for number, batch in enumerate(batches, 1):
        for place, key in enumerate(batch.image_keys):
            yield Shown(
                thumbnail=_thumbnail(batch, place),
                name=Path(key).name,
                path=key,
                caption=batch.captions[place],
                bucket=batch.bucket,
                original=tuple(batch.original_sizes_hw[place].tolist()[::-1]),
                crop=tuple(batch.crop_top_lefts[place].tolist()[::-1]),
                flipped=batch.flipped[place],
                loss_weight=float(batch.loss_weights[place]),
                batch=number,
            )


def _thumbnail(batch: Batch, place: int) -> Image.Image:
    if batch.images is None:    # a --dataset_class may hand over latents
        return Image.new("RGB", (THUMBNAIL, THUMBNAIL), "lightgray")
    light = colors(batch.images[place]) / 2 + 0.5
    mask = None
    if batch.conditioning_images is not None:
        mask = colors(batch.conditioning_images[place, 0]) / 2 + 0.5
    elif batch.alpha_masks is not None:
        mask = batch.alpha_masks[place]
    if mask is not None:
        light = light * (HIDDEN + (1 - HIDDEN) * mask)
    pixels = (light.clamp(0, 1) * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image


def _figure(number: int, sample: Shown) -> str:
    caption = html.escape(sample.caption) or "<i>empty caption</i>"
    return (
        f'<figure><img src="thumbnails/{number:04d}.png" alt="" title="{html.escape(sample.path)}">'
        f"<b>{html.escape(sample.name)}</b><br>{caption}<br><small>{sample.facts()}</small></figure>"
    )


def _sheet(shown: list[Shown]) -> Image.Image:
    """All samples in rows; letters that no font at hand has are shown as boxes, the page has them all."""
    rows = max(1, -(-len(shown) // COLUMNS))
    height = CELL + LINE * LINES + 8
    sheet = Image.new("RGB", (COLUMNS * CELL, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    font = font_for("".join(sample.name + sample.caption for sample in shown), LINE - 2)
    for number, sample in enumerate(shown):
        left, top = number % COLUMNS * CELL, number // COLUMNS * height
        image = sample.thumbnail.copy()
        image.thumbnail((CELL - 8, CELL - 8))
        sheet.paste(image, (left + (CELL - image.width) // 2, top + (CELL - image.height) // 2))
        for line, text in enumerate(_lines(sample, font)):
            draw.text((left + 4, top + CELL + line * LINE), text, fill="black", font=font)
    return sheet


def _lines(sample: Shown, font) -> list[str]:
    """Name, bucket and weight, then the caption on the lines that are left."""
    mirrored = ", flipped" if sample.flipped else ""
    lines = [sample.name, f"{sample.bucket[0]}x{sample.bucket[1]}{mirrored}, weight {sample.loss_weight:g}"]
    rest = " ".join(sample.caption.split()) or "(empty caption)"
    while rest and len(lines) < LINES:
        part = _fitting(rest, font)
        lines.append(part)
        rest = rest[len(part) :].lstrip()
    return [_fitting(line, font) for line in lines]


def _fitting(text: str, font) -> str:
    """As much of the start of `text` as fits into a cell, up to the end of a word if the word is not long."""
    end = len(text)
    while end > 1 and font.getlength(text[:end]) > CELL - 8:
        end -= max(1, (end - 30) // 4)
    space = text.rfind(" ", 0, end)
    return text[:space] if end < len(text) and space > end // 2 else text[:end]
