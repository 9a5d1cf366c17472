"""What can be said of a model file before torch is imported: whether it is there, whether it is whole, the names of its tensors."""

import os
import re

import safetensors

FILE_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def is_single_file(path: str) -> bool:
    """Whether `path` is a file (links are followed). Raises ValueError if it names neither a file, a folder nor a hub id."""
    if os.path.isfile(path):
        return True
    if not os.path.isdir(path) and (path.lower().endswith(FILE_ENDINGS) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path)):
        raise ValueError(f"no such file or folder: {path}")
    return False


def is_safetensors(path: str) -> bool:
    """Whether the file says of itself that it is one: a link into a cache often has the ending that its target lacks."""
    return any(name.lower().endswith(".safetensors") for name in (path, os.path.realpath(path)))


def tensor_names(path: str) -> list[str]:
    """Of a .safetensors file, from its header alone. Raises ValueError if the file is cut off, or none."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return list(file.keys())
    except safetensors.SafetensorError as error:
        raise not_whole(path) from error


def not_whole(path: str) -> ValueError:
    """The error to raise for a .safetensors file that cannot be read."""
    return ValueError(f"{path} is not a whole .safetensors file: {what_is_wrong(path)}")


def what_is_wrong(path: str) -> str:
    """The likely reason why a model file cannot be read, from its first bytes."""
    with open(path, "rb") as file:
        head = file.read(512).lstrip()
    if not head:
        return "it is empty"
    if head.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer, a few lines of text that stand for the model; run `git lfs pull` or download the file itself"
    if head[:20].lower().startswith((b"<!doctype", b"<html", b"<?xml", b'{"error')):
        return "it is a web page; the download needs a login or another address"
    if head.startswith(b"PK\x03\x04") and path.lower().endswith(".safetensors"):
        return "it is a torch pickle with the wrong ending; rename it to .ckpt"
    return "it is damaged or cut off; download it again"
