"""The preview pictures of a sweep, in order: for each prompt and seed a sheet of runs by epochs, as small pictures inside a page."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from library.saving.pictures import PARAMETERS
from library.sweep.runs import Run

SIDE = 192
"""Pixels of the longer side of a small picture."""
FILE_NAME = re.compile(r"(?P<mark>e\d{6}|\d{6})_(?P<index>\d{2,})_(?P<time>\d{14})(?:_(?P<seed>\d+))?\.png")


@dataclass(frozen=True)
class Preview:
    """One picture. mark: `e000003` after an epoch, `000250` after a step. seed: None where the prompt names none."""

    path: Path
    mark: str
    index: int
    seed: int | None

    @property
    def when(self) -> str:
        number = int(self.mark.lstrip("e"))
        return f"epoch {number}" if self.mark.startswith("e") else f"step {number}"


def previews(run: Run) -> list[Preview]:
    """The run's pictures; of those drawn twice, before and after a run was resumed, the later one."""
    found: dict[tuple[str, int], Preview] = {}
    for path in sorted((run.folder / "sample").glob(f"{glob_safe(run.name)}_*.png"), key=lambda path: path.stat().st_mtime):
        match = FILE_NAME.fullmatch(path.name.removeprefix(f"{run.name}_"))
        if match:
            seed = int(match["seed"]) if match["seed"] else None
            found[match["mark"], int(match["index"])] = Preview(path, match["mark"], int(match["index"]), seed)
    return list(found.values())


def glob_safe(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def sheets(runs: Sequence[Run]) -> dict[tuple[int, int | None], dict[str, dict[str, Preview]]]:
    """(prompt's number, seed) -> mark -> run's name -> picture; marks in the order of training."""
    made: dict[tuple[int, int | None], dict[str, dict[str, Preview]]] = {}
    pictures = [(run.name, preview) for run in runs for preview in previews(run)]
    for name, preview in sorted(pictures, key=lambda one: (one[1].index, one[1].mark.lstrip("e"))):
        made.setdefault((preview.index, preview.seed), {}).setdefault(preview.mark, {})[name] = preview
    return made


def prompt_of(path: Path) -> str:
    """The prompt that the picture carries; empty text if it carries none."""
    with Image.open(path) as picture:
        text = getattr(picture, "text", {}).get(PARAMETERS, "")
    return re.split(r"\n(?:Negative prompt: |Steps: )", text)[0]


def small_picture(path: Path) -> str:
    """The picture as a data URL, JPEG of at most SIDE pixels."""
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    small.save(content, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
