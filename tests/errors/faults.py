"""Damage done to files and to the process, for rows that need it."""

import importlib.util
import json
import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

Patch = Callable[[pytest.MonkeyPatch], None]
Writer = Callable[[Path], object]


def without(package: str) -> Patch:
    """Takes a package away; "cuda" takes the GPU."""

    def hide(patch: pytest.MonkeyPatch) -> None:
        if package == "cuda":
            patch.setattr(torch.cuda, "is_available", lambda: False)
            return
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, package, None)
        find_spec = importlib.util.find_spec
        patch.setattr(
            importlib.util, "find_spec", lambda name, where=None: None if name.partition(".")[0] == package else find_spec(name, where)
        )

    return hide


def raising(target: str, error: BaseException) -> Patch:
    """Has the function at a dotted path raise."""

    def raise_it(*args, **options):
        raise error

    return lambda patch: patch.setattr(target, raise_it)


class Code:
    """Pickles as an instruction to make a file, as a hostile file would run a program."""

    def __reduce__(self):
        return open, ("CODE_RAN", "w")


def hostile(path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}, "hidden": Code()}, path)


def copied(name: str) -> Writer:
    return lambda path: shutil.copytree(name, path) if Path(name).is_dir() else shutil.copyfile(name, path)


def cut(name: str, share: float = 0.7) -> Writer:
    """The first part of a file."""

    def write(path: Path) -> None:
        content = Path(name).read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return write


def tensors(**shapes: tuple[int, ...]) -> Writer:
    """A .safetensors file of zeros; "__" in a name is a dot."""
    return lambda path: save_file({name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}, path)


def changed_folder(name: str, change: Callable[[Path], object]) -> Writer:
    """A copy of a folder with something done to it."""

    def write(path: Path) -> None:
        shutil.copytree(name, path)
        change(path)

    return write


def lose_a_tensor(file: str, name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = load_file(folder / file)
        del content[name]
        save_file(content, folder / file)

    return change


def damaged_record(folder: Path) -> None:
    """run.json with text where numbers belong."""
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"global_step": "many"}))


def huge_picture(path: Path) -> None:
    """A PNG of a few bytes that says it is 60,000 pixels wide and high."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**5))) + chunk(b"IEND", b""))
