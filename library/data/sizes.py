"""Width and height of image files, read from their headers alone.

The orientation noted in a photo's EXIF data is not looked at, as images are decoded without turning them.
"""

import os
import struct
import warnings
from collections.abc import Sequence

from PIL import Image, UnidentifiedImageError

from library.data.folders import image_extensions
from library.data.threads import map_in_threads

LISTED = 20


def probe_sizes(paths: Sequence[str]) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """(width, height) in pixels of each file that can be read, and for each other file what is wrong with it."""
    image_extensions()                      # before the threads: loads the packages for further formats
    sizes, problems = {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)     # large images are ordinary training material
        for path, found in zip(paths, map_in_threads(_probe, paths), strict=True):
            if isinstance(found, str):
                problems[path] = found
            else:
                sizes[path] = found
    return sizes, problems


def _probe(path: str) -> tuple[int, int] | str:
    try:
        if path.lower().endswith(".webp") and (size := _webp_size(path)):
            return size
        with Image.open(path) as image:
            width, height = image.size
    except FileNotFoundError:
        return "there is no such file"
    except UnidentifiedImageError:
        return "empty, cut off or no image"
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        return str(error) or type(error).__name__
    return (width, height) if width > 0 and height > 0 else "an image without pixels"


def _webp_size(path: str) -> tuple[int, int] | None:
    """(width, height) from the first 30 bytes (RFC 9649), as Pillow would read the whole file; None if they say no size.

    Raises ValueError if the file is shorter than it says.
    """
    with open(path, "rb") as file:
        head = file.read(30)
        length = os.fstat(file.fileno()).st_size
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    if int.from_bytes(head[4:8], "little") + 8 > length:
        raise ValueError("cut off")
    if head[12:16] == b"VP8X":                                                  # canvas of an extended file, less one
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if head[12:16] == b"VP8L" and head[20] == 0x2F:                             # lossless: 14 bits each, less one
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if head[12:16] == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":               # lossy: 14 bits each, 2 bits of scaling
        return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    return None


def bad_images_message(problems: dict[str, str]) -> str:
    """All unreadable files in one message: the first ones by name, how many more, and what can be done."""
    lines = [f"  {path}: {problem}" for path, problem in list(problems.items())[:LISTED]]
    if len(problems) > LISTED:
        lines.append(f"  and {len(problems) - LISTED} more")
    return f"{len(problems)} images cannot be read:\n" + "\n".join(lines)
