"""Hashes that Stable Diffusion tools know files by: of a saved network (sshs_*) and of whole model files."""

import hashlib
import struct
import threading
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor

from library.saving import hash_memory

LEGACY_START, LEGACY_LENGTH = 0x100000, 0x10000
"""The legacy hash covers these 64 KiB only, and is the hash of nothing for shorter files."""
FOLDER_HASH = "IsADirectory"
_CHUNK = 1 << 22


def network_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[str, str]:
    """(sshs_model_hash, sshs_legacy_hash) of a network as it will be saved: CPU, contiguous, in the stored dtype.

    The first does not depend on metadata; the second does, through its keys that begin with `ss_`.
    """
    training_metadata = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    serialised = safetensors.torch.save(dict(tensors), training_metadata)
    (header_length,) = struct.unpack("<Q", serialised[:8])
    model = hashlib.sha256(memoryview(serialised)[8 + header_length :]).hexdigest()
    return model, _legacy(serialised[LEGACY_START : LEGACY_START + LEGACY_LENGTH])


def model_hash(tensors: Mapping[str, Tensor]) -> str:
    """sshs_model_hash: SHA-256 of the tensor data, whatever the metadata."""
    return network_hashes(tensors, {})[0]


def legacy_hash(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sshs_legacy_hash: eight hex digits, changed by any `ss_` value such as the time of saving."""
    return network_hashes(tensors, metadata)[1]


def file_hashes(path: str | Path) -> tuple[str, str]:
    """(legacy hash, SHA-256 of the whole file); both are the word IsADirectory for a folder."""
    path = Path(path)
    if path.is_dir():
        return FOLDER_HASH, FOLDER_HASH
    whole = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(LEGACY_START)
        legacy = _legacy(file.read(LEGACY_LENGTH))
        file.seek(0)
        while chunk := file.read(_CHUNK):
            whole.update(chunk)
    return legacy, whole.hexdigest()


class FileHashes:
    """Hashes a model file beside the rest of the start-up, as several GB take seconds to read; large files once only."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._hashes: tuple[str, str] | None = None
        self._fault: OSError | None = None
        self._thread = threading.Thread(target=self._work, name=f"hash of {self.path.name}", daemon=True)
        self._thread.start()

    def result(self) -> tuple[str, str]:
        """What `file_hashes` gives; waits for it. Raises OSError if the file could not be read."""
        self._thread.join()
        if self._hashes is None:
            raise OSError(f"cannot hash {self.path}: {self._fault}") from self._fault
        return self._hashes

    def _work(self) -> None:
        try:
            known_as = hash_memory.identity(self.path)
            self._hashes = hash_memory.recall(self.path)
            if self._hashes is None:
                self._hashes = file_hashes(self.path)
                hash_memory.remember(self.path, self._hashes, known_as)
        except OSError as fault:
            self._fault = fault


def _legacy(window: bytes) -> str:
    return hashlib.sha256(window).hexdigest()[:8]
