"""Small images and captions drawn into a temporary folder."""

from pathlib import Path

from PIL import Image

from library.data.subsets import DatasetSettings, Subset


def draw(folder: Path, *names: str, size: tuple[int, int] = (8, 6), caption: str | None = None) -> list[str]:
    """Draws each name as an image of its ending, with the same caption file (.txt) for all; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", size).save(folder / name)
        if caption is not None:
            (folder / name).with_suffix(".txt").write_text(caption, encoding="utf-8")
    return [str(folder / name) for name in names]


def settings(*subsets: Subset, **values) -> DatasetSettings:
    """A data set of 64x64 with these subsets."""
    return DatasetSettings(list(subsets), (64, 64), **values)
