"""Opening model files: what tensors are in them, and each tensor when it is asked for.

A .safetensors file stays on disk, mapped into memory, until a tensor is read, so loading needs room for one copy of the
model only. Any other file is read as a torch pickle that may hold tensors and plain values, but no code.
"""

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from library.models.model_files import is_safetensors, not_whole, what_is_wrong
from library.saving.weights import UNREADABLE


class ModelCheckpoint:
    """Stands for the class of the same name in pytorch_lightning, which old SD checkpoints mention and nothing here uses."""


# Names in pickles, besides torch's own, that are let through: plain numbers, and a name that stands there for nothing.
HARMLESS = [
    (ModelCheckpoint, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
    (ModelCheckpoint, "pytorch_lightning.callbacks.ModelCheckpoint"),
    (numpy.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (numpy.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    numpy.dtype,
    *(type(numpy.dtype(kind)) for kind in ("bool", "int32", "int64", "float32", "float64")),
]


@dataclass(frozen=True)
class Checkpoint:
    """An opened file. shapes: name -> shape of every tensor in it. read: name -> the tensor, on the CPU, as stored."""

    path: str
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]

    def part(self, prefix: str) -> "Checkpoint":
        """The tensors whose names begin with `prefix`, under their names without it."""
        shapes = {name.removeprefix(prefix): shape for name, shape in self.shapes.items() if name.startswith(prefix)}
        return Checkpoint(self.path, shapes, lambda name: self.read(prefix + name))

    def renamed(self, new_name: Callable[[str], str]) -> "Checkpoint":
        """The same tensors, each under new_name(its name)."""
        names = {new_name(name): name for name in self.shapes}
        return Checkpoint(self.path, {new: self.shapes[old] for new, old in names.items()}, lambda name: self.read(names[name]))


class MappedFile:
    """Tensors of a .safetensors file, read when asked for.

    A mapped file's pages count as memory of the program once they are read, so it is mapped anew after every REMAP_BYTES;
    tensors still in use keep the mapping they came from.
    """

    REMAP_BYTES = 256 * 2**20

    def __init__(self, path: str):
        self.path = path
        self._open()

    def _open(self) -> None:
        self._file = safetensors.safe_open(self.path, framework="pt", device="cpu")
        self._bytes_read = 0

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor, none of which is read."""
        return {name: tuple(self._file.get_slice(name).get_shape()) for name in self._file.keys()}  # noqa: SIM118 (it is no dict)

    def read(self, name: str) -> Tensor:
        """The tensor as stored."""
        if self._bytes_read > self.REMAP_BYTES:
            self._open()
        tensor = self._file.get_tensor(name)
        self._bytes_read += tensor.nbytes
        return tensor


def open_checkpoint(path: str, disable_mmap: bool = False) -> Checkpoint:
    """Opens a model file. disable_mmap: read a .safetensors file at once, which some network drives serve faster.

    Raises ValueError if the file is cut off, is no model file at all, or is a pickle that wants to run code.
    """
    path = os.fspath(path)
    if is_safetensors(path):
        return _open_safetensors(path, disable_mmap)
    return _from_tensors(path, _unpickled(path))


def _open_safetensors(path: str, disable_mmap: bool) -> Checkpoint:
    try:
        if disable_mmap:
            with open(path, "rb") as file:
                return _from_tensors(path, safetensors.torch.load(file.read()))
        opened = MappedFile(path)
        shapes = opened.shapes()
    except safetensors.SafetensorError as error:
        raise not_whole(path) from error
    return Checkpoint(path, shapes, opened.read)


def _unpickled(path: str) -> dict:
    try:
        with torch.serialization.safe_globals(HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is None:
            raise ValueError(f"{path} is not a model file: {what_is_wrong(path)}") from error
        raise ValueError(
            f"{path} holds a Python object ({code[1]}), not only tensors, so it could run code and is not opened. Convert it to"
            " .safetensors with a program you trust."
        ) from error
    except (*UNREADABLE, OSError) as error:
        raise ValueError(f"{path} is not a model file: {what_is_wrong(path)}") from error
    return content.get("state_dict", content) if isinstance(content, dict) else {}


def _from_tensors(path: str, tensors: Mapping) -> Checkpoint:
    tensors = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    return Checkpoint(path, {name: tuple(value.shape) for name, value in tensors.items()}, tensors.__getitem__)
