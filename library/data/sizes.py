"""Width and height of image files, read from their headers alone.

The orientation noted in a photo's EXIF data is not looked at, as images are decoded without turning them.
"""

import struct
import warnings
import zlib
from collections.abc import Sequence

from PIL import Image, UnidentifiedImageError

from library.data.folders import image_extensions
from library.data.image_headers import header_size
from library.data.image_index import ImageIndex
from library.data.threads import map_in_threads

LISTED = 20
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, IndexError, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises for files that are cut off, altered, too large or no images."""


def probe_sizes(paths: Sequence[str], index: ImageIndex | None = None) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """(width, height) in pixels of each file that can be read, and for each other file what is wrong with it.

    index: what is known of the folder; files that have not changed since are not opened.
    """

    def probe(path: str) -> tuple[int, int] | str:
        try:
            return _measured(path) if index is None else index.size(path, _measured)
        except UNREADABLE as error:
            return why_unreadable(error)

    image_extensions()                      # before the threads: loads the packages for further formats
    sizes, problems = {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)     # large images are ordinary training material
        for path, found in zip(paths, map_in_threads(probe, paths), strict=True):
            if isinstance(found, str):
                problems[path] = found
            else:
                sizes[path] = found
    return sizes, problems


def _measured(path: str) -> tuple[int, int]:
    """Raises one of UNREADABLE for a file that has no size or too large a one."""
    size = header_size(path)
    if size is None:
        with Image.open(path) as image:
            size = image.size
    pixels = size[0] * size[1]
    if pixels <= 0:
        raise ValueError("an image without pixels")
    if pixels > _most_pixels():
        raise ValueError(_too_large(pixels))
    return size


def why_unreadable(error: BaseException) -> str:
    """What is wrong with an image file, in a few words, from one of UNREADABLE."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        return "empty, cut off or no image"
    if isinstance(error, Image.DecompressionBombError):
        return _too_large()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _most_pixels() -> float:
    """Beyond these Pillow takes a file for a decompression bomb and does not open it."""
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else float("inf")


def _too_large(pixels: int = 0) -> str:
    found = f"{pixels / 1e6:.0f} million pixels, " if pixels else ""
    return f"{found}more than the {_most_pixels() / 1e6:.0f} million pixels that are opened: scale it down"


def bad_images_message(problems: dict[str, str]) -> str:
    """All unreadable files in one message: the first ones by name, and how many more."""
    lines = [f"  {path}: {problem}" for path, problem in list(problems.items())[:LISTED]]
    if len(problems) > LISTED:
        lines.append(f"  and {len(problems) - LISTED} more")
    return f"{len(problems)} images cannot be used:\n" + "\n".join(lines)


def bad_images_error(problems: dict[str, str]) -> ValueError:
    """The error of a run that shall not go on without these images."""
    return ValueError(bad_images_message(problems) + "\nrepair or delete them, or leave them out with --skip_bad_images")
