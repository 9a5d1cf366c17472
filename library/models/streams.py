"""Model and adapter files as streams of tensors, each read when it is asked for: what tools that rewrite files work on."""

import os
from dataclasses import dataclass
from pathlib import Path

import safetensors

from library.models.checkpoints import MappedFile, open_checkpoint
from library.saving.streaming import DTYPES, LazyTensor


@dataclass(frozen=True)
class Stream:
    """An opened file. tensors: name -> the tensor, on the CPU, as stored."""

    path: str
    tensors: dict[str, LazyTensor]
    metadata: dict[str, str]

    @property
    def stem(self) -> str:
        return Path(self.path).stem


class _ShortMapping(MappedFile):
    """A reader that reads each tensor once gains nothing from pages it has passed."""

    REMAP_BYTES = 64 * 2**20


def open_stream(path: str | Path) -> Stream:
    """Opens a .safetensors file, or any other kind of model file that holds tensors only.

    Raises ValueError if there is no such file, or it cannot be read.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise ValueError(f"no such file: {path}")
    checkpoint = open_checkpoint(path)
    if not any(name.lower().endswith(".safetensors") for name in (path, os.path.realpath(path))):
        return Stream(path, {name: LazyTensor.of(checkpoint.read(name)) for name in checkpoint.shapes}, {})
    mapped = _ShortMapping(path)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
        dtypes = {name: file.get_slice(name).get_dtype() for name in checkpoint.shapes}
    unknown = sorted({kind for kind in dtypes.values() if kind not in DTYPES})
    if unknown:
        raise ValueError(f"{path} has tensors of the kind {', '.join(unknown)}, which is not known here")
    tensors = {name: LazyTensor(DTYPES[dtypes[name]], shape, _reader(mapped, name)) for name, shape in checkpoint.shapes.items()}
    return Stream(path, tensors, metadata)


def _reader(mapped: MappedFile, name: str):
    return lambda: mapped.read(name)
