"""The loader: batches of an epoch, in this process's share, made ahead by worker processes.

By default the sampler hands (epoch, step, number) to whoever builds the batch, so that the number of workers, keeping them alive and
skipping into an epoch change nothing. With strict_compat batches come as sd-scripts delivers them: see `Counters` and `_look_ahead`.
"""

import logging
import multiprocessing
import os
import random
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import torch
import torch.distributed
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler, get_worker_info

from library.data.batch import Batch
from library.data.group import DatasetGroup

logger = logging.getLogger(__name__)


class BatchLoader:
    """workers: how many processes build batches; 0, or data that lies in memory, builds them in this one.

    seed: of the order of batches. accumulation: micro steps to an optimizer step.
    rank, world: this process gets every world-th batch; all processes get the same number, if need be by starting over.
    counters: strict_compat only, those of the training loader, for a validation loader, because there they are shared.
    """

    def __init__(
        self,
        group: DatasetGroup,
        *,
        workers: int,
        persistent_workers: bool,
        shuffle: bool,
        strict_compat: bool,
        seed: int,
        rank: int = 0,
        world: int = 1,
        pin_memory: bool = False,
        accumulation: int = 1,
        counters: "Counters | None" = None,
    ):
        workers = 0 if group.needs_no_file and not strict_compat else min(workers, os.cpu_count() or 1)
        self.strict_compat = strict_compat
        self.counters = (counters or Counters(group)) if strict_compat else None
        share = _Share(rank, world)
        if strict_compat:
            self._sampler = _ReferenceOrder(group, share, shuffle)
        else:
            self._sampler = _EpochOrder(len(group), share, shuffle, seed, accumulation)
        self._loader = DataLoader(
            _Teller(group),
            batch_size=1 if strict_compat else None,
            sampler=self._sampler,
            num_workers=workers,
            persistent_workers=persistent_workers and workers > 0,
            collate_fn=self.counters if strict_compat else _unchanged,
            pin_memory=pin_memory,
            worker_init_fn=_one_thread,
            generator=None if strict_compat else torch.Generator().manual_seed(0),
        )

    def __len__(self) -> int:
        """Batches per epoch in this process."""
        return len(self._sampler)

    def note_step(self, global_step: int) -> None:
        """To be called at the top of each micro step; without strict_compat it changes nothing."""
        if self.counters is not None:
            self.counters.step.value = global_step

    def epoch(self, epoch: int, *, first_step: int = 0, skip: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` (1-based) but for the first `skip`, which are not loaded.

        first_step: the global step at the epoch's start, skipped batches included; with strict_compat the one at which the caller starts.
        """
        if not self.strict_compat:
            self._sampler.epoch, self._sampler.first_step, self._sampler.skip = epoch, first_step, skip
            yield from _told(self._loader)
            return
        self.counters.epoch.value = epoch
        self._sampler.skip = max(0, skip - 1)
        batches = _look_ahead(_told(self._loader))
        if skip > 0:  # the last one to be skipped is loaded and thrown away: it makes the workers change over to this epoch
            next(batches, None)
            self.note_step(first_step)
        yield from batches


@dataclass
class _Mistake:
    """What is wrong with the data, on its way from a worker, whose errors would otherwise arrive wrapped in a traceback."""

    message: str
    traceback: str


class _Teller(Dataset):
    """The group, but a ValueError becomes a _Mistake."""

    def __init__(self, group: DatasetGroup):
        self.group = group

    def __len__(self) -> int:
        return len(self.group)

    def __getitem__(self, item: int | tuple[int, int, int]) -> "Batch | _Mistake":
        try:
            batch = self.group[item]
            return batch if get_worker_info() is None else batch.packed()
        except ValueError as error:
            return _Mistake(str(error), traceback.format_exc())


def _told(batches: Iterable[Batch | _Mistake]) -> Iterator[Batch]:
    """The batches; a mistake among them is raised here, in the process that trains."""
    for batch in batches:
        if isinstance(batch, _Mistake):
            logger.debug("where the error below arose\n%s", batch.traceback)
            raise ValueError(batch.message)
        yield batch.unpacked()


class Counters:
    """strict_compat: epoch and step reach a data set one batch late, after an item has been built, in the process that built it.

    Called by the DataLoader on each finished item. The first batch of an epoch in each process therefore still comes from an
    older layout. A worker has a copy of the data set as it stands in the main process.
    """

    def __init__(self, group: DatasetGroup):
        self.group = group
        self.epoch = multiprocessing.Value("i", 0)
        self.step = multiprocessing.Value("i", 0)

    def __call__(self, items: list[Batch]) -> Batch:
        worker = get_worker_info()
        group = self.group if worker is None else worker.dataset.group
        group.set_clock(self.epoch.value, self.step.value)
        return items[0]


class _Share:
    """Which of an epoch's batches this process gets."""

    def __init__(self, rank: int, world: int):
        self.rank, self.world = rank, world

    def of(self, order: list[int]) -> list[int]:
        """Every world-th number; the order starts over until all processes get equally many."""
        length = self.length(len(order)) * self.world
        even = (order * (length // max(1, len(order)) + 1))[:length]
        return even[self.rank :: self.world]

    def length(self, total: int) -> int:
        return -(-total // self.world)


class _EpochOrder(Sampler):
    """Default: yields (epoch, step, number); the order is a function of seed and epoch."""

    def __init__(self, total: int, share: _Share, shuffle: bool, seed: int, accumulation: int):
        self.total, self.share, self.shuffle, self.seed, self.accumulation = total, share, shuffle, seed, accumulation
        self.epoch, self.first_step, self.skip = 1, 0, 0

    def __len__(self) -> int:
        return self.share.length(self.total)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        order = list(range(self.total))
        if self.shuffle:
            random.Random(f"order {self.seed} {self.epoch}").shuffle(order)
        for position, number in enumerate(self.share.of(order)):
            if position >= self.skip:
                yield self.epoch, self.first_step + position // self.accumulation, number


class _ReferenceOrder(Sampler):
    """strict_compat: yields numbers; the order costs the global torch generator one 63-bit draw at the start of each epoch.

    With several processes it is one draw in all, agreed upon by all of them.
    """

    def __init__(self, group: DatasetGroup, share: _Share, shuffle: bool):
        generator = _common_generator() if shuffle and share.world > 1 else None
        self.order = RandomSampler(group, generator=generator) if shuffle else SequentialSampler(group)
        self.share = share
        self.skip = 0

    def __len__(self) -> int:
        return self.share.length(len(self.order))

    def __iter__(self) -> Iterator[int]:
        return iter(self.share.of(list(self.order))[self.skip :])


def _common_generator() -> torch.Generator:
    seed = [int(torch.empty((), dtype=torch.int64).random_().item())]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(seed, src=0)
    return torch.Generator().manual_seed(seed[0])


def _look_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Fetches each batch before the one ahead of it is handed out: what a step draws at random comes after that."""
    current = next(batches, None)
    while current is not None:
        following = next(batches, None)
        yield current
        current = following


def _unchanged(batch: Batch) -> Batch:
    return batch


def _one_thread(worker: int) -> None:
    """Workers are parallel already: OpenCV's own threads would only compete with them."""
    cv2.setNumThreads(0)
