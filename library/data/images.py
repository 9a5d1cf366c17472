"""Reading image files, resizing and cutting them. Without torch.

Arrays are uint8 (H, W, 3), or (H, W, 4) with alpha. Sizes are (width, height).
"""

import logging
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from library.data.folders import image_extensions
from library.data.sizes import UNREADABLE, why_unreadable

logger = logging.getLogger(__name__)

PILLOW_FILTERS = {"lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}
OPENCV_FILTERS = {
    "nearest": cv2.INTER_NEAREST_EXACT,
    "bilinear": cv2.INTER_LINEAR,
    "linear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}


def check_interpolation(name: str | None) -> None:
    """Raises ValueError for a --resize_interpolation that does not exist; None means automatic."""
    if name is not None and name not in PILLOW_FILTERS and name not in OPENCV_FILTERS:
        known = ", ".join(sorted([*PILLOW_FILTERS, *OPENCV_FILTERS]))
        raise ValueError(f"unknown --resize_interpolation {name!r}: use one of {known}, or leave it out for the automatic choice")


class BadImage(ValueError):
    """An image file that cannot be decoded; `path` is the file and `reason` what is wrong with it, in a few words."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"cannot read the image {path}: {reason}. Repair it, remove it, or leave such images out with --skip_bad_images")
        self.path, self.reason = path, reason


def load_image(path: Path, with_alpha: bool = False, *, strict_compat: bool = False) -> np.ndarray:
    """The file as it is stored: EXIF rotation and colour profiles are not applied, transparency is dropped or kept, not blended.

    16-bit grey levels are scaled to 8 bits; with strict_compat all above 255 become white. Raises BadImage.
    """
    image_extensions()  # a worker process has not yet loaded the packages for further formats
    try:
        with Image.open(path) as image:
            if strict_compat and image.mode.startswith("I"):
                logger.warning("%s has 16-bit grey levels; with --strict_compat all above 255 become white", path)
            return _eight_bits(image, "RGBA" if with_alpha else "RGB", strict_compat)
    except UNREADABLE as error:
        raise BadImage(path, why_unreadable(error)) from error


def _eight_bits(image: Image.Image, mode: str, strict_compat: bool) -> np.ndarray:
    if image.mode.startswith("I") and not strict_compat:
        levels = np.rint(np.clip(np.array(image), 0, 65535) / 257).astype(np.uint8)
        image = Image.fromarray(levels)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")       # straight to RGB gives the same colours and a warning
    return np.array(image if image.mode == mode else image.convert(mode), np.uint8)


def resize_image(image: np.ndarray, size: tuple[int, int], interpolation: str | None = None) -> np.ndarray:
    """`image` at `size`; unchanged when it already has it.

    Without a named `interpolation`: area averaging when neither side grows, else Lanczos.
    OpenCV filters treat the alpha channel like a colour; Pillow's weigh colours by alpha.
    """
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    check_interpolation(interpolation)
    if interpolation is None:
        interpolation = "area" if width >= size[0] and height >= size[1] else "lanczos"
    if interpolation in PILLOW_FILTERS:
        return np.array(Image.fromarray(image).resize(size, PILLOW_FILTERS[interpolation]))
    return cv2.resize(image, size, interpolation=OPENCV_FILTERS[interpolation])


def crop_image(image: np.ndarray, left: int, top: int, size: tuple[int, int]) -> np.ndarray:
    """The part of `size` whose upper left corner is (left, top)."""
    return image[top : top + size[1], left : left + size[0]]
