"""Pixels: reading image files, resizing, and the step from bytes to a tensor in -1..1.

Arrays are uint8 (H, W, 3), or (H, W, 4) with alpha. Sizes are (width, height).
"""

import logging
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from library.data.folders import image_extensions

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


def load_image(path: Path, with_alpha: bool = False) -> np.ndarray:
    """The file as it is stored: EXIF rotation and colour profiles are not applied, transparency is dropped or kept, not blended.

    Grey levels above 255 of 16-bit images become 255. Raises ValueError naming a file that cannot be read.
    """
    image_extensions()  # a worker process has not yet loaded the packages for further formats
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):
                logger.warning("%s has 16-bit grey levels; all above 255 become white. Convert it to 8 bit", path)
            mode = "RGBA" if with_alpha else "RGB"
            return np.array(image if image.mode == mode else image.convert(mode), np.uint8)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the image {path}: {error}. Repair or remove it") from error


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


def to_tensor(image: np.ndarray) -> Tensor:
    """Colours as (3, H, W) float32 in -1..1; an alpha channel is left out."""
    pixels = torch.from_numpy(np.ascontiguousarray(image[:, :, :3])).permute(2, 0, 1).contiguous()
    return pixels.float().div_(255).sub_(0.5).div_(0.5)


def alpha_tensor(image: np.ndarray) -> Tensor:
    """The alpha channel as (H, W) float32 in 0..1; ones when the image has none."""
    if image.shape[2] < 4:
        return torch.ones(image.shape[:2])
    return torch.from_numpy(image[:, :, 3].astype(np.float32) / 255)
