"""Caching latents: every image through the VAE once, before training, into memory or into files beside the images.

Images are decoded in threads ahead of the encoder and files are written behind it. A run that was cut off goes on where it stopped.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from library.console import progress_bar
from library.data.buckets import Size, fit_inside_crop
from library.data.cache_report import clear_leftovers, log_stale
from library.data.dataset import ImageDataset
from library.data.framing import centered
from library.data.group import DatasetGroup
from library.data.images import BadImage, load_image
from library.data.latent_files import LATENT_STRIDE, CachedLatents, Wanted, latents_path, why_stale, write_latents
from library.data.pixels import alpha_tensor, to_tensor
from library.data.samples import interpolation_of
from library.data.subsets import ImageRecord
from library.data.threads import map_in_threads
from library.files import room_left

logger = logging.getLogger(__name__)

DECODERS = 4
IMAGES_AHEAD = 16
WRITES_BEHIND = 64


@dataclass
class _Job:
    """One image to encode. `path` None keeps its latents in memory."""

    record: ImageRecord
    wanted: Wanted
    path: Path | None = None
    strict_compat: bool = False


@dataclass
class _Decoded:
    image: np.ndarray
    original_size: Size


@dataclass
class _Names:
    """Which image each cache file of this run belongs to, so that no two images share one."""

    owners: dict[Path, Wanted] = field(default_factory=dict)

    def path(self, record: ImageRecord, wanted: Wanted, suffix: str) -> Path:
        """sd-scripts' name; qualified if an image of the same stem, or the same image at another size, has taken that."""
        for qualifier in ("", record.path.suffix, f"{record.path.suffix}_{record.bucket[0]}x{record.bucket[1]}"):
            path = latents_path(record.path, record.size, suffix, qualifier)
            owner = self.owners.setdefault(path, wanted)
            if _pixels(owner) == _pixels(wanted):
                return path
        raise ValueError(f"{record.path} would be cached twice in {path}: rename the image or leave out --cache_latents_to_disk")


def _pixels(wanted: Wanted) -> tuple:
    """What decides the pixels that are encoded."""
    return wanted.image, wanted.latent_size, wanted.resized, wanted.interpolation


def cache_latents(
    group: DatasetGroup,
    encode: Callable[[Tensor], Tensor],
    *,
    to_disk: bool,
    suffix: str,
    batch_size: int,
    skip_check: bool = False,
    rank: int = 0,
    world: int = 1,
    vae_id: str = "",
) -> dict[str, str]:
    """Gives every record its latents, or with `to_disk` the path of its cache file.

    encode: (B, 3, H, W) in -1..1 -> latents (B, C, h, w), not scaled, on the CPU. suffix: of the files, such as "_sd.npz".
    skip_check: take every file that exists. vae_id: a name for the VAE, such as its hash; files made by another are made anew.
    With `to_disk` this process makes every world-th file: wait for the others before training. With strict_compat, order
    and batches of the calls are those of sd-scripts, as the VAE draws from torch's generator in them.
    Returns the images that this process could not decode, by key, and why; they are left without latents.
    Raises ValueError naming an image whose latents are NaN.
    """
    names = _Names()
    bad: dict[str, str] = {}
    for dataset in group.datasets:
        jobs = [_Job(record, _wanted(record, dataset, vae_id), strict_compat=dataset.strict_compat) for record in _in_order(dataset)]
        if to_disk:
            jobs = _files_to_make(jobs, names, suffix, skip_check, rank, world)
        bad |= _encode_all(jobs, encode, batch_size, show_progress=rank == 0, alone=world == 1)
        if not to_disk:
            _share_memory([job.record for job in jobs])
    return bad


def _in_order(dataset: ImageDataset) -> list[ImageRecord]:
    """By area of the bucket, as sd-scripts; by default also by its shape, so that batches of the encoder fill up."""
    if dataset.strict_compat:
        return sorted(dataset.records.values(), key=lambda record: record.bucket[0] * record.bucket[1])
    return sorted(dataset.records.values(), key=lambda record: (record.bucket[0] * record.bucket[1], record.bucket))


def _wanted(record: ImageRecord, dataset: ImageDataset, vae_id: str) -> Wanted:
    return Wanted(
        image=record.path,
        latent_size=(record.bucket[1] // LATENT_STRIDE, record.bucket[0] // LATENT_STRIDE),
        resized=record.resized,
        interpolation=interpolation_of(record, dataset.settings),
        flipped=record.subset.flip_aug,
        alpha_mask=record.subset.alpha_mask,
        vae_id=vae_id,
    )


def _files_to_make(jobs: list[_Job], names: _Names, suffix: str, skip_check: bool, rank: int, world: int) -> list[_Job]:
    """Gives each record the path of its file; returns those of this process whose file is missing or stale, and logs why."""
    for job in jobs:
        job.path = job.record.latents_npz = names.path(job.record, job.wanted, suffix)
    own = jobs[rank::world]
    if skip_check:
        return [job for job in own if not job.path.exists()]
    reasons = map_in_threads(lambda job: why_stale(job.path, job.wanted), own)
    log_stale("latent cache files", [(reason, job.path) for reason, job in zip(reasons, own, strict=True) if reason])
    missing = [job for reason, job in zip(reasons, own, strict=True) if reason]
    clear_leftovers({job.path.parent for job in missing}, suffix)
    return missing


def _encode_all(
    jobs: list[_Job], encode: Callable[[Tensor], Tensor], batch_size: int, show_progress: bool, alone: bool
) -> dict[str, str]:
    """Encodes and keeps all that can be decoded; returns the rest, by key, and why. alone: no other process shares the files."""
    bad: dict[str, str] = {}
    if not jobs:
        return bad
    with (
        ThreadPoolExecutor(DECODERS) as decoders,
        ThreadPoolExecutor(1) as writer,
        progress_bar(total=len(jobs), desc="caching latents", unit="image", disable=not show_progress) as progress,
    ):
        writes: deque[Future] = deque()
        keep = _Keeper(alone)
        for batch in _batches(_decoded_ahead(jobs, decoders, bad), batch_size):
            for job, cached in _encode_batch(batch, encode):
                if job.path is None:
                    _keep_in_memory(job.record, cached)
                else:
                    writes.append(writer.submit(keep.file, job, cached))
            while len(writes) > WRITES_BEHIND:
                writes.popleft().result()
            progress.update(len(batch))
        for write in writes:
            write.result()
        progress.update(len(bad))
    return bad


class _Keeper:
    """Writes cache files; where one cannot be written, as on a full disk, its latents stay in memory, and that is told once."""

    def __init__(self, alone: bool):
        self.alone, self.told = alone, False

    def file(self, job: _Job, cached: CachedLatents) -> None:
        """Raises ValueError if other processes wait for the file."""
        try:
            write_latents(job.path, cached, job.wanted)
        except OSError as fault:
            message = f"the latent cache file {job.path} could not be written: {fault}; {room_left(job.path.parent)}"
            if not self.alone:
                raise ValueError(f"{message}. Make room, or leave out --cache_latents_to_disk") from fault
            if not self.told:
                logger.error("%s. What cannot be written stays in memory for this run", message)
                self.told = True
            job.record.latents_npz = None
            _keep_in_memory(job.record, cached)


def _decoded_ahead(
    jobs: list[_Job], decoders: ThreadPoolExecutor, bad: dict[str, str]
) -> Iterator[tuple[_Job, _Decoded]]:
    """The jobs in order with their images, a bounded number of which are decoded in advance; `bad` collects what cannot be."""
    waiting: deque[tuple[_Job, Future]] = deque()
    remaining = iter(jobs)
    try:
        while True:
            while len(waiting) < IMAGES_AHEAD and (job := next(remaining, None)) is not None:
                waiting.append((job, decoders.submit(_decode, job)))
            if not waiting:
                return
            job, future = waiting.popleft()
            try:
                image = future.result()
            except BadImage as error:
                bad[job.record.key] = error.reason
                continue
            yield job, image
    finally:
        for _, image in waiting:
            image.cancel()


def _decode(job: _Job) -> _Decoded:
    """The image scaled and cut from the middle to its bucket."""
    record = job.record
    image = load_image(record.path, job.wanted.alpha_mask, strict_compat=job.strict_compat)
    size = image.shape[1], image.shape[0]
    framing = centered(size, record.resized, record.bucket)
    return _Decoded(framing.apply(image, job.wanted.interpolation), size)


def _batches(decoded: Iterable[tuple[_Job, _Decoded]], batch_size: int) -> Iterator[list[tuple[_Job, _Decoded]]]:
    """Neighbours that can be encoded together: same bucket, and alike in mirroring and masks."""
    batch: list[tuple[_Job, _Decoded]] = []
    for job, image in decoded:
        if batch and _kind(batch[0][0]) != _kind(job):
            yield batch
            batch = []
        batch.append((job, image))
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _kind(job: _Job) -> tuple:
    subset = job.record.subset
    return job.record.bucket, subset.flip_aug, subset.alpha_mask, subset.random_crop


def _encode_batch(batch: list[tuple[_Job, _Decoded]], encode: Callable[[Tensor], Tensor]) -> list[tuple[_Job, CachedLatents]]:
    """First the images, then, where they may be flipped, the mirrored images: mirroring latents would not be the same."""
    pixels = torch.stack([to_tensor(decoded.image) for _, decoded in batch])
    latents = encode(pixels)
    flipped = encode(pixels.flip(-1)) if batch[0][0].wanted.flipped else None
    results = []
    for number, (job, decoded) in enumerate(batch):
        cached = CachedLatents(
            latents=latents[number].clone(),
            original_size=decoded.original_size,
            crop_box=fit_inside_crop(job.record.bucket, decoded.original_size),
            latents_flipped=None if flipped is None else flipped[number].clone(),
            alpha_mask=alpha_tensor(decoded.image) if job.wanted.alpha_mask else None,
        )
        _check_finite(cached, job.record.path)
        results.append((job, cached))
    return results


def _check_finite(cached: CachedLatents, image: Path) -> None:
    for latents in (cached.latents, cached.latents_flipped):
        if latents is not None and not torch.isfinite(latents).all():
            raise ValueError(f"the VAE gave NaN or infinite latents for {image}: run it in full precision with --no_half_vae")


def _keep_in_memory(record: ImageRecord, cached: CachedLatents) -> None:
    record.latents, record.latents_flipped, record.alpha_mask = cached.latents, cached.latents_flipped, cached.alpha_mask
    record.size = cached.original_size


def _share_memory(records: list[ImageRecord]) -> None:
    """Where loader workers are started afresh, not forked, lets them share the latents instead of each getting a copy.

    One block of shared memory for each shape: the number of blocks a process may hold is limited.
    """
    if torch.multiprocessing.get_start_method() == "fork":
        return
    for name in ("latents", "latents_flipped", "alpha_mask"):
        blocks: dict[tuple, list[ImageRecord]] = {}
        for record in records:
            tensor = getattr(record, name)
            if tensor is not None:
                blocks.setdefault((tensor.shape, tensor.dtype), []).append(record)
        for members in blocks.values():
            block = torch.stack([getattr(record, name) for record in members]).share_memory_()
            for record, tensor in zip(members, block, strict=True):
                setattr(record, name, tensor)
