"""Tensor files: networks and other state dicts as .safetensors, or as pickled .ckpt and .pt."""

import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from library.files import written_whole

UNREADABLE = (
    RuntimeError, EOFError, LookupError, AttributeError, AssertionError, TypeError, ValueError, OverflowError, MemoryError, struct.error,
)  # fmt: skip
"""What torch.load raises for bytes that are no file of torch.save, besides UnpicklingError."""
PICKLE_ENDINGS = (".ckpt", ".pt", ".pth", ".bin")


def save_tensors(
    path: str | Path, state_dict: Mapping[str, Tensor], metadata: Mapping[str, str] | None, dtype: torch.dtype | None = None
) -> None:
    """Writes all tensors to `path`, whole or not at all; its ending picks the format.

    dtype: every tensor (alpha too) is stored in it; None keeps each as it is. Only .safetensors holds metadata; an empty one is left out.
    Raises ValueError for another ending, OSError where the disk is full or cannot be written.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending != ".safetensors" and ending not in PICKLE_ENDINGS:
        raise ValueError(f"cannot save to {path.name!r}: the name must end in .safetensors, {', '.join(PICKLE_ENDINGS)}")
    tensors = storable(state_dict, dtype)
    with written_whole(path) as temporary:
        if ending == ".safetensors":
            try:
                safetensors.torch.save_file(tensors, temporary, metadata=dict(metadata) if metadata else None)
            except SafetensorError as fault:
                raise OSError(str(fault)) from fault
        else:
            try:
                torch.save(tensors, temporary)
            except RuntimeError as fault:  # its stream writer says so when the disk is full
                raise OSError(str(fault)) from fault


def storable(state_dict: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The same tensors on the CPU, contiguous, in `dtype` if given, and no two of them sharing memory."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in state_dict.items():
        tensor = tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()
        storage = tensor.untyped_storage()
        if storage.nbytes() != tensor.nbytes or (storage.nbytes() and storage.data_ptr() in seen):
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        tensors[name] = tensor
    return tensors


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of a file, on the CPU. A pickled file may hold them under "state_dict"; nothing but tensors is unpickled.

    Raises FileNotFoundError, or ValueError for a file that is cut short, of another format, or holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix.lower() == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except SafetensorError as fault:
            raise ValueError(f"{path} is not a whole .safetensors file ({fault}): copy or download it again") from fault
    return _load_table(path)


def load_pickled(path: Path, safe_globals: Sequence = ()) -> Any:
    """The content of a file of torch.save, tensors on the CPU. Nothing but tensors, plain values and `safe_globals` is unpickled.

    Raises ValueError for a file that holds more, or that is cut short.
    """
    try:
        with torch.serialization.safe_globals(list(safe_globals)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as fault:
        raise ValueError(
            f"{path} holds more than tensors, or is damaged, and is not opened: a pickle can run any program. "
            "Use a .safetensors version of the file"
        ) from fault
    except UNREADABLE as fault:
        detail = f" ({fault})" if isinstance(fault, RuntimeError | EOFError) and str(fault) else ""
        raise ValueError(f"{path} is not a whole torch file{detail}: copy or download it again") from fault


def _load_table(path: Path) -> dict[str, Tensor]:
    content = load_pickled(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} does not hold a plain table of names and tensors")
    return content
