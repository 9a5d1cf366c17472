"""metadata_cache.json of a folder with cache_info: captions and sizes of its images, so that they need not be read again.

{path: {"caption": text, "resolution": [width, height]}}, as sd-scripts writes and reads it.
"""

import json
import logging
import os

from library.data.caption_files import FileLookup, caption_file
from library.data.folders import ImageFolder
from library.data.subsets import Subset
from library.files import written_whole

logger = logging.getLogger(__name__)

FILE_NAME = "metadata_cache.json"

Known = dict[str, tuple[str, tuple[int, int]]]
"""Image path -> (caption, (width, height))."""


def read_info_cache(image_dir: str) -> Known | None:
    """What the folder's file says, None if there is none. Raises ValueError if it is damaged."""
    path = os.path.join(image_dir, FILE_NAME)
    if not os.path.isfile(path):
        logger.info("cache_info: %s does not exist yet, it will be written", path)
        return None
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        return {image: (str(facts["caption"]), _size(facts["resolution"])) for image, facts in content.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"cache_info: {path} is damaged ({error!r}): delete it, it will be written again") from error


def _size(resolution: list) -> tuple[int, int]:
    width, height = resolution
    return int(width), int(height)


def is_up_to_date(known: Known, folder: ImageFolder, subset: Subset) -> bool:
    """Whether the file lists exactly the folder's images and nothing was changed since it was written; if not, says why."""
    path = os.path.join(folder.path, FILE_NAME)
    gone, new = known.keys() - set(folder.images), set(folder.images) - known.keys()
    written = os.path.getmtime(path)
    lookup = FileLookup(folder)
    changed = 0
    for image in folder.images:
        caption = caption_file(image, subset.caption_extension, lookup)
        changed += any(_modified(file) > written for file in (image, caption) if file)
    if gone or new or changed:
        reasons = f"{len(gone)} listed images are gone, {len(new)} are new, {changed} images or captions were changed"
        logger.warning("cache_info: %s is out of date (%s): the folder is read again", path, reasons)
        return False
    return True


def _modified(path: str) -> float:
    """Time of the last change; 0 for a link that leads nowhere, which is reported when sizes are read."""
    try:
        return os.path.getmtime(path)
    except FileNotFoundError:
        return 0.0


def write_info_cache(image_dir: str, known: Known) -> None:
    """Writes the file; a folder that cannot be written to only costs a warning."""
    path = os.path.join(image_dir, FILE_NAME)
    content = {image: {"caption": caption, "resolution": list(size)} for image, (caption, size) in known.items()}
    try:
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
    except OSError as error:
        logger.warning("cache_info: %s cannot be written: %s", path, error.strerror)
