"""Caches on disk that are small are read once and kept in memory: then batches are made where they are used, without worker processes.

A worker costs the start of a Python with torch in it (seconds each on Windows) and its memory, and saves a millisecond an image.
What is small beside the memory of a GPU waits there, so that a step begins without copies.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from library.data.group import DatasetGroup
from library.data.latent_files import LATENT_STRIDE, read_latents
from library.data.subsets import ImageRecord
from library.data.text_files import read_text_states
from library.data.threads import map_in_threads

MOST_BYTES = 2**30
"""The caches of some 2,000 images of SD 1.x, or of 800 of SDXL with their captions."""
CHANNELS = 4
SHARE_OF_GPU = 1 / 64
"""Of its memory, for caches: on a card of 8 GB those of 300 images of SDXL, or of 100 with their captions."""


def hold_caches(groups: Collection[DatasetGroup], device: torch.device) -> None:
    """Holds what is small in memory, and what is small beside a GPU's on the GPU."""
    hold_small_caches(groups)
    if device.type == "cuda":
        keep_on_device(groups, device, SHARE_OF_GPU * torch.cuda.get_device_properties(device).total_memory)


def hold_small_caches(groups: Iterable[DatasetGroup], most_bytes: int = MOST_BYTES) -> None:
    """Reads what lies in cache files into memory, if all of it takes at most `most_bytes`. What is used afterwards is the same.

    With strict_compat nothing is done. Raises ValueError naming a file that is damaged.
    """
    records = [record for group in groups if not group.strict_compat for record in group.records]
    files = sorted({file for record in records for file in text_files(record)})
    if sum(map(latent_bytes, records)) + sum(file.stat().st_size for file in files) > most_bytes:
        return
    map_in_threads(hold_latents, [record for record in records if record.latents_npz is not None and record.latents is None])
    states = dict(zip(files, map_in_threads(read_text_states, files), strict=True))
    for record in records:
        if record.cached_text is not None:
            record.cached_text.states = [states[state] if isinstance(state, Path) else state for state in record.cached_text.states]


def latent_bytes(record: ImageRecord) -> int:
    """Of what the record's cache file holds for it, 0 without one."""
    if record.latents_npz is None or record.latents is not None:
        return 0
    pixels = record.bucket[0] * record.bucket[1]
    latents = CHANNELS * 4 * pixels // LATENT_STRIDE**2
    return latents * (1 + record.subset.flip_aug) + 4 * pixels * record.subset.alpha_mask


def text_files(record: ImageRecord) -> list[Path]:
    return [] if record.cached_text is None else [state for state in record.cached_text.states if isinstance(state, Path)]


def hold_latents(record: ImageRecord) -> None:
    """Reads the file for each way round that training may ask for."""
    ways = (False, True) if record.subset.flip_aug else (False,)
    record.held = {way: read_latents(record.latents_npz, flipped=way, alpha_mask=record.subset.alpha_mask) for way in ways}


def keep_on_device(groups: Iterable[DatasetGroup], device: torch.device, most_bytes: float) -> None:
    """Moves latents and text states to `device` where all of a group lie in memory, if they take at most `most_bytes` together.

    Batches hold the same numbers. With strict_compat nothing is done, as there workers make the batches.
    """
    records = [record for group in groups if group.needs_no_file and not group.strict_compat for record in group.records]
    kept: dict[int, Tensor] = {}  # by id: several records may share the states of one caption
    for record in records:
        change_caches(record, lambda tensor: kept.setdefault(id(tensor), tensor))
    if sum(tensor.nbytes for tensor in kept.values()) > most_bytes:
        return
    moved = {number: tensor.to(device) for number, tensor in kept.items()}
    for record in records:
        change_caches(record, lambda tensor: moved[id(tensor)])


def change_caches(record: ImageRecord, change: Callable[[Tensor], Tensor]) -> None:
    """Puts change(tensor) in the place of each tensor that batches are made of."""

    def changed(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else change(tensor)

    def changed_states(states: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
        return None if states is None else {name: change(state) for name, state in states.items()}

    record.latents, record.latents_flipped = changed(record.latents), changed(record.latents_flipped)
    record.alpha_mask = changed(record.alpha_mask)
    if record.held is not None:
        for way, held in record.held.items():
            record.held[way] = replace(held, latents=change(held.latents), alpha_mask=changed(held.alpha_mask))
    if record.cached_text is not None:
        record.cached_text.states = [changed_states(states) for states in record.cached_text.states]
        record.cached_text.empty = changed_states(record.cached_text.empty)
