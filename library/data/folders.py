"""Which folders and files of a data set are images: folder names like `10_name`, file endings, pairs of image and mask."""

import functools
import importlib
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from PIL import features

logger = logging.getLogger(__name__)

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
OPTIONAL_EXTENSIONS = {".avif": ("pillow_avif",), ".jxl": ("pillow_jxl", "jxlpy.JXLImagePlugin")}
PACKAGE_TO_INSTALL = {".avif": "pillow-avif-plugin", ".jxl": "pillow-jxl-plugin"}


@dataclass(frozen=True)
class ClassFolder:
    """A folder `10_name`: each of its images is repeated `repeats` times an epoch, `class_tokens` stand for captions."""

    path: str
    repeats: int
    class_tokens: str


@dataclass(frozen=True)
class ImageFolder:
    """One listing of a folder. images: full paths, sorted as text. names: all files in it, images and others.

    unreadable: images that need a package which is not installed -> what to do about it.
    """

    path: str
    images: list[str]
    names: frozenset[str]
    unreadable: dict[str, str] = field(default_factory=dict)


@functools.cache
def image_extensions() -> tuple[str, ...]:
    """The endings of images that can be read here. Loads the packages that teach Pillow further formats."""
    return EXTENSIONS + tuple(ending for ending, modules in OPTIONAL_EXTENSIONS.items() if _can_read(ending, modules))


def _can_read(ending: str, modules: tuple[str, ...]) -> bool:
    for module in modules:
        try:
            importlib.import_module(module)
            return True
        except ImportError:
            continue
    return ending == ".avif" and "avif" in features.get_supported()


def class_folders(base: str, *, in_system_order: bool = False) -> list[ClassFolder]:
    """The sub-folders of `base` named `N_name` with N >= 1, by name or as the system lists them.

    N is read as Python reads whole numbers; what follows the first underscore are the class tokens, "" if nothing does.
    """
    folders, ignored = [], []
    for entry in _entries(base):
        if not entry.is_dir():
            continue
        number, *rest = entry.name.split("_")
        try:
            repeats = int(number)
        except ValueError:
            repeats = 0
        if repeats < 1:
            ignored.append(entry.name)
        else:
            folders.append(ClassFolder(os.path.join(base, entry.name), repeats, "_".join(rest)))
    if ignored:
        logger.warning("%s: ignored, no name like 10_name (a number of at least 1, then _): %s", base, ", ".join(sorted(ignored)))
    return folders if in_system_order else sorted(folders, key=lambda folder: folder.path)


def list_images(folder: str, *, any_case: bool = True) -> ImageFolder:
    """The images directly in `folder`. Dot-files are no images.

    any_case: also take endings like .Jpg; otherwise only all lower or all upper case, as sd-scripts does.
    Images of a format that needs a package which is not installed are not among its images but told as unreadable.
    """
    names, images, unreadable = [], [], {}
    readable = set(image_extensions())
    for entry in _entries(folder):
        if entry.is_dir():
            continue
        names.append(entry.name)
        ending = os.path.splitext(entry.name)[1]
        lower = ending.lower()
        if entry.name.startswith(".") or not (any_case or ending in (lower, ending.upper())):
            continue
        if lower in readable:
            images.append(entry.name)
        elif lower in OPTIONAL_EXTENSIONS:
            unreadable[os.path.join(folder, entry.name)] = f"reading {lower} files needs: pip install {PACKAGE_TO_INSTALL[lower]}"
    return ImageFolder(folder, [os.path.join(folder, name) for name in sorted(images)], frozenset(names), unreadable)


def count_images(folder: str) -> int:
    """How many images lie directly in `folder`."""
    return len(list_images(folder).images)


def _entries(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise ValueError(f"the folder {folder} cannot be read: {error.strerror}") from error


def pair_with_conditioning(
    images: list[str], conditioning_data_dir: str, *, any_case: bool = True
) -> tuple[dict[str, Path], dict[str, str]]:
    """For each image the file of the same base name, whatever its image ending, in `conditioning_data_dir`.

    Second, what is wrong: images without such a file, files without an image, by path.
    Raises ValueError if there is no such folder.
    """
    if not Path(conditioning_data_dir).is_dir():
        raise ValueError(f"conditioning_data_dir {conditioning_data_dir}: there is no such folder")
    by_stem: dict[str, str] = {}
    for path in list_images(conditioning_data_dir, any_case=any_case).images:
        by_stem.setdefault(_stem(path), path)
    stems = {_stem(path) for path in images}
    problems = {path: f"it has no mask in {conditioning_data_dir}" for path in images if _stem(path) not in by_stem}
    problems |= {path: "a mask without an image" for stem, path in by_stem.items() if stem not in stems}
    return {path: Path(by_stem[_stem(path)]) for path in images if path not in problems}, problems


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]
