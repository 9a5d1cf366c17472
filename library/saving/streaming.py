"""Writing a .safetensors file one tensor at a time, so that a tool needs room for one tensor and not for one model.

A tensor is made when its turn comes and dropped once it is written. The file has the order and the hashes that the
safetensors library would have given it, and appears whole or not at all.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from library.files import written_whole
from library.saving.hashes import LEGACY_LENGTH, LEGACY_START
from library.saving.weights import PICKLE_ENDINGS, save_tensors

DTYPE_NAMES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.float8_e5m2: "F8_E5M2", torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16", torch.float16: "F16", torch.bfloat16: "BF16", torch.int32: "I32", torch.float32: "F32",
    torch.float64: "F64", torch.int64: "I64",
}  # fmt: skip
"""In the order of the safetensors library, which writes the last kinds first."""
DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
RANK = {dtype: rank for rank, dtype in enumerate(DTYPE_NAMES)}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read or computed when it is asked for. read() gives it on any device, with this shape and dtype."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> "LazyTensor":
        return cls(tensor.dtype, tuple(tensor.shape), lambda: tensor)

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def to(self, dtype: torch.dtype | None) -> "LazyTensor":
        """The same tensor in another floating dtype; whole numbers stay what they are."""
        if dtype in (None, self.dtype) or not self.dtype.is_floating_point:
            return self
        return LazyTensor(dtype, self.shape, lambda: self.read().to(dtype))


def write_stream(
    path: str | Path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str] | None = None, *, hashed: bool = False
) -> None:
    """Writes all tensors to `path`; its ending picks the format, and only .safetensors is written tensor by tensor.

    hashed: adds sshs_model_hash and sshs_legacy_hash to the metadata, as a saved network has them.
    Raises ValueError for another ending.
    """
    path = Path(path)
    if path.suffix.lower() in PICKLE_ENDINGS:
        save_tensors(path, {name: tensor.read() for name, tensor in tensors.items()}, None)
        return
    if path.suffix.lower() != ".safetensors":
        raise ValueError(f"cannot save to {path.name!r}: the name must end in .safetensors, {', '.join(PICKLE_ENDINGS)}")
    metadata = {key: str(value) for key, value in (metadata or {}).items()}
    placeholder = {"sshs_model_hash": "0" * 64, "sshs_legacy_hash": "0" * 8} if hashed else {}
    ordered = dict(sorted(tensors.items(), key=lambda item: (-RANK[item[1].dtype], item[0])))
    trained = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    hashes = _Hashes(len(_header(ordered, trained))) if hashed else None
    with written_whole(path) as temporary, open(temporary, "r+b") as file:
        file.write(_header(ordered, metadata | placeholder))
        for name, tensor in ordered.items():
            for piece in _bytes_of(name, tensor):
                file.write(piece)
                if hashes is not None:
                    hashes.update(piece)
        if hashes is not None:
            file.seek(0)
            file.write(_header(ordered, metadata | hashes.result()))


def _header(tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> bytes:
    """The length of the table of contents and the table, padded so that the data begins at a multiple of 8 bytes."""
    table: dict = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name, tensor in tensors.items():
        end = start + tensor.nbytes
        table[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


@torch.no_grad()
def _bytes_of(name: str, lazy: LazyTensor) -> Iterator[memoryview]:
    tensor = lazy.read().detach().to("cpu").contiguous()
    assert tensor.dtype == lazy.dtype and tuple(tensor.shape) == lazy.shape, f"{name}: {tensor.dtype} {tuple(tensor.shape)}"
    if tensor.numel():
        yield memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


class _Hashes:
    """Both hashes of a network, from its data as it passes by; see library.saving.hashes.

    header_size: bytes before the data in the form that is hashed, which has the ss_* metadata only.
    """

    def __init__(self, header_size: int):
        self.position = header_size
        self.whole, self.window = hashlib.sha256(), hashlib.sha256()

    def update(self, piece: memoryview) -> None:
        self.whole.update(piece)
        first, last = LEGACY_START - self.position, LEGACY_START + LEGACY_LENGTH - self.position
        if last > 0 and first < len(piece):
            self.window.update(piece[max(first, 0) : last])
        self.position += len(piece)

    def result(self) -> dict[str, str]:
        return {"sshs_model_hash": self.whole.hexdigest(), "sshs_legacy_hash": self.window.hexdigest()[:8]}
