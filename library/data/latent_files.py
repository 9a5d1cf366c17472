"""Cache files of VAE latents, one npz beside each image, readable by sd-scripts and written like its own.

Arrays: latents (C, h, w) float32 as the VAE gave them, original_size (width, height) of the image, crop_ltrb, and if asked for
latents_flipped and alpha_mask (H, W) in pixels. Ours also holds `source`, the evidence by which a stale file is told.
"""

import functools
import hashlib
import io
import json
import math
import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from library.data.buckets import Size
from library.files import written_whole

OLD_NAME_SUFFIXES = ("_sd.npz", "_sdxl.npz")
"""The families for which `stem.npz`, the name of old versions, is honoured."""
LATENT_STRIDE = 8
"""Pixels per latent, each way."""
UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, SyntaxError, TypeError,
    tokenize.TokenError, MemoryError, OverflowError,
)  # fmt: skip
"""What reading a damaged npz file raises: in its archive, in the Python text that describes an array, and in making one of it."""
LARGEST_ARRAY = 2**31
"""Bytes. An alpha mask of 16,384 x 16,384 pixels has half as many; a file that says more is no cache and would fill the memory."""
NPY_START = b"\x93NUMPY\x01\x00"


@dataclass
class CachedLatents:
    """What a cache file holds of one image; `latents_flipped` is an encoding of the mirrored image."""

    latents: Tensor
    original_size: Size
    crop_box: tuple[float, float, float, float]
    latents_flipped: Tensor | None = None
    alpha_mask: Tensor | None = None


@dataclass(frozen=True)
class Wanted:
    """What a cache file must fit to be used. `latent_size` is (h, w); `vae_id` "" accepts any VAE's."""

    image: Path
    latent_size: tuple[int, int]
    resized: Size
    interpolation: str | None
    flipped: bool
    alpha_mask: bool
    vae_id: str = ""


def latents_path(image: Path, size: Size, suffix: str, qualifier: str = "") -> Path:
    """Where the latents of `image` (`size` as listed) are kept. `qualifier` tells apart what would share one name."""
    old = image.with_suffix(".npz")
    if suffix in OLD_NAME_SUFFIXES and not qualifier and "latents" in _keys(old):
        return old
    return image.with_name(f"{image.stem}{qualifier}_{size[0]:04d}x{size[1]:04d}{suffix}")


def write_latents(path: Path, cached: CachedLatents, wanted: Wanted) -> None:
    """Writes the file in one go: whoever reads it sees the old one or the whole new one."""
    arrays = {
        "latents": cached.latents.float().numpy(),
        "original_size": np.array(cached.original_size),
        "crop_ltrb": np.array(cached.crop_box),
        "source": np.array(json.dumps(_evidence(wanted))),
    }
    if cached.latents_flipped is not None:
        arrays["latents_flipped"] = cached.latents_flipped.float().numpy()
    if cached.alpha_mask is not None:
        arrays["alpha_mask"] = cached.alpha_mask.float().numpy()
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_latents(path: Path, *, flipped: bool, alpha_mask: bool) -> CachedLatents:
    """What the file holds; its `latents` are those of the mirrored image when `flipped`. Reads only what is asked for.

    Raises ValueError naming a file that is damaged or lacks something.
    """
    try:
        with open_npz(path) as arrays:
            cached = CachedLatents(
                latents=torch.from_numpy(arrays["latents_flipped" if flipped else "latents"]),
                original_size=tuple(int(length) for length in arrays["original_size"]),
                crop_box=tuple(float(side) for side in arrays["crop_ltrb"]),
                alpha_mask=torch.from_numpy(arrays["alpha_mask"]) if alpha_mask and "alpha_mask" in arrays else None,
            )
    except UNREADABLE as error:
        raise ValueError(f"cannot use the latent cache file {path}: {error}. Delete it and it will be made again") from error
    if not torch.isfinite(cached.latents).all():
        raise ValueError(f"{path} holds NaN or infinite latents: delete it, then cache again with --no_half_vae")
    return cached


def why_stale(path: Path, wanted: Wanted) -> str | None:
    """Why the cache file cannot be used, in a few words; None when it can. A missing file is "missing".

    Files of other tools carry no evidence: they are taken if the sizes fit and they are not older than the image.
    """
    if not path.exists():
        return "missing"
    try:
        with open_npz(path) as arrays:
            return _missing_part(arrays, wanted) or _wrong_size(arrays, wanted) or _wrong_source(path, arrays, wanted)
    except UNREADABLE:
        return "damaged"


def _missing_part(arrays, wanted: Wanted) -> str | None:
    needed = ["latents", "original_size", "crop_ltrb"]
    needed += ["latents_flipped"] * wanted.flipped + ["alpha_mask"] * wanted.alpha_mask
    missing = [key for key in needed if key not in arrays]
    return f"without {missing[0]}" if missing else None


def _wrong_size(arrays, wanted: Wanted) -> str | None:
    height, width = arrays["latents"].shape[-2:]
    if (height, width) != wanted.latent_size:
        return f"of {width * LATENT_STRIDE}x{height * LATENT_STRIDE} pixels instead of this run's"
    return None


def _wrong_source(path: Path, arrays, wanted: Wanted) -> str | None:
    if "source" not in arrays:
        if not np.isfinite(arrays["latents"]).all():
            return "with NaN in the latents"
        return "older than the image" if path.stat().st_mtime < wanted.image.stat().st_mtime else None
    source = json.loads(str(arrays["source"]))
    if wanted.vae_id and source["vae"] and wanted.vae_id != source["vae"]:
        return "made by another VAE"
    if source["resized"] != list(wanted.resized) or source["interpolation"] != wanted.interpolation:
        return "of an image resized otherwise"
    return None if _is_unchanged(wanted.image, source) else "of an image changed since"


def _evidence(wanted: Wanted) -> dict:
    state = wanted.image.stat()
    return {
        "image": wanted.image.name,
        "bytes": state.st_size,
        "mtime_ns": state.st_mtime_ns,
        "hash": _file_hash(wanted.image),
        "resized": list(wanted.resized),
        "interpolation": wanted.interpolation,
        "vae": wanted.vae_id,
    }


def _is_unchanged(image: Path, source: dict) -> bool:
    """By size and time; a file whose time alone differs, as after copying, is compared by its content."""
    state = image.stat()
    if image.name != source["image"] or state.st_size != source["bytes"]:
        return False
    return state.st_mtime_ns == source["mtime_ns"] or _file_hash(image) == source["hash"]


def _file_hash(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _keys(path: Path) -> list[str]:
    """Names of the arrays in an npz file; none when there is no such file or it is none."""
    try:
        with open_npz(path) as arrays:
            return list(arrays.files)
    except UNREADABLE:
        return []


class open_npz:
    """The arrays of an npz file by name, like np.load but twice as fast for small files and never anything else than npz.

    `files` are their names. Opening and reading raise one of UNREADABLE for a file that is damaged or no npz file.
    """

    def __init__(self, path: Path):
        self._archive = zipfile.ZipFile(path)
        self.files = [name.removesuffix(".npy") for name in self._archive.namelist()]

    def __enter__(self) -> "open_npz":
        return self

    def __exit__(self, *error) -> None:
        self._archive.close()

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def __getitem__(self, name: str) -> np.ndarray:
        size = self._archive.getinfo(f"{name}.npy").file_size
        if size > LARGEST_ARRAY:
            raise ValueError(f"{name} says it has {size / 2**30:.0f} GiB, which no cache has")
        return _npy_array(self._archive.read(f"{name}.npy"))


def _npy_array(content: bytes) -> np.ndarray:
    """The array in an .npy file. Raises ValueError if it is none, is cut off or holds Python objects."""
    if content.startswith(NPY_START):
        start = 10 + int.from_bytes(content[8:10], "little")
        shape, columns_first, dtype = _npy_header(content[8:start])
        if not columns_first and not dtype.hasobject:
            return np.frombuffer(bytearray(content), dtype, math.prod(shape), start).reshape(shape)
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)


@functools.lru_cache(maxsize=4096)
def _npy_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and dtype. They are Python text, slow to read and mostly the same."""
    return np.lib.format.read_array_header_1_0(io.BytesIO(header))
