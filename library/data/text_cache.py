"""Caching text encoder outputs: every caption through the text encoders once, into memory or into files beside the images."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from library.console import progress_bar
from library.data.cache_report import clear_leftovers, log_stale
from library.data.caption_variants import caption_variants, drops_captions
from library.data.group import DatasetGroup
from library.data.nothing_found import subset_name
from library.data.subsets import CachedText, ImageRecord
from library.data.text_files import TextSource, text_states_path, why_text_stale, write_text_states
from library.data.threads import map_in_threads
from library.files import room_left

logger = logging.getLogger(__name__)

Encode = Callable[[list[str]], dict[str, Tensor]]
IDLE_AS_STORED = ("caption_prefix", "caption_suffix", "caption_dropout_every_n_epochs", "enable_wildcard", "secondary_separator")


@dataclass(frozen=True)
class TextFiles:
    """How cache files are made. suffix: the family's ending. first_width: width of the first text encoder's states.

    token_length: 77 or --max_token_length + 2. encoders_id: a name for the text encoders, such as their hash.
    skip_check: files that exist are taken unread. Process `rank` of `world` makes every world-th file.
    """

    suffix: str
    first_width: int
    token_length: int
    encoders_id: str = ""
    skip_check: bool = False
    rank: int = 0
    world: int = 1


@dataclass
class _Job:
    """Variant `number` of a record's caption, to be kept in the file `path`."""

    record: ImageRecord
    number: int
    source: TextSource
    path: Path


@dataclass
class _Names:
    """Which caption each cache file of this run belongs to, so that no two captions share one."""

    owners: dict[Path, str] = field(default_factory=dict)

    def path(self, image: Path, suffix: str, caption: str, variant: str) -> Path:
        """sd-scripts' name; qualified if an image of the same stem with another caption has taken that."""
        for qualifier in ("", image.suffix):
            path = text_states_path(image, suffix, qualifier + variant)
            if self.owners.setdefault(path, caption) == caption:
                return path
        raise ValueError(f"{image} is used with two captions, but {path} can hold one: leave out --cache_text_encoder_outputs_to_disk")


def cache_text_states(
    group: DatasetGroup,
    encode: Encode,
    *,
    files: TextFiles | None = None,
    variants: int | None = None,
    as_stored: bool = False,
    show_progress: bool = True,
) -> None:
    """Gives every record its `cached_text`, with states in memory or in `files`; wait for other processes before training.

    encode: captions -> states with a first axis B, on the CPU. Images with the same caption share its states in memory.
    variants: how many variants of each caption are kept; None: the caption without random changes.
    as_stored: the text as it stands in its file, as sd-scripts does it, so that prefixes and suffixes have no effect.
    """
    _warn_of_options_without_effect(group, variants, as_stored)
    in_memory: dict[str, dict[str, Tensor]] = {}
    names = _Names()
    for dataset in group.datasets:
        records = list(dataset.records.values())
        for record in records:
            captions = caption_variants(record, variants, as_stored=as_stored)
            record.cached_text = CachedText(captions, [None] * len(captions))
        if files is None:
            _keep_in_memory(records, in_memory, encode, dataset.settings.batch_size, show_progress)
        else:
            jobs = _files_to_make(records, names, files, numbered=variants is not None)
            _write_files(jobs, encode, dataset.settings.batch_size, files.first_width, show_progress, alone=files.world == 1)
        if not as_stored:
            _keep_empty(records, in_memory, encode)


def _keep_in_memory(
    records: list[ImageRecord], in_memory: dict[str, dict[str, Tensor]], encode: Encode, batch_size: int, show_progress: bool
) -> None:
    """Gives each record its states, out of `in_memory` (caption -> states), to which missing ones are added."""
    captions = dict.fromkeys(caption for record in records for caption in record.cached_text.captions)
    missing = [caption for caption in captions if caption not in in_memory]
    in_memory.update(zip(missing, _encoded(missing, encode, batch_size, show_progress), strict=True))
    for record in records:
        record.cached_text.states = [in_memory[caption] for caption in record.cached_text.captions]


def _keep_empty(records: list[ImageRecord], in_memory: dict[str, dict[str, Tensor]], encode: Encode) -> None:
    for record in records:
        if drops_captions(record.subset):
            if "" not in in_memory:
                in_memory[""] = next(_encoded([""], encode, 1, show_progress=False))
            record.cached_text.empty = in_memory[""]


def _files_to_make(records: list[ImageRecord], names: _Names, files: TextFiles, numbered: bool) -> list[_Job]:
    """Gives each record the paths of its files; returns those of this process whose file is missing or stale, and logs why."""
    jobs = []
    for record in records:
        for number, caption in enumerate(record.cached_text.captions):
            path = names.path(record.path, files.suffix, caption, f"_v{number}" if numbered else "")
            record.cached_text.states[number] = path
            jobs.append(_Job(record, number, TextSource(caption, files.token_length, files.encoders_id), path))
    own = jobs[files.rank :: files.world]
    if files.skip_check:
        return [job for job in own if not job.path.exists()]
    reasons = map_in_threads(_why_stale, own)
    log_stale("text cache files", [(reason, job.path) for reason, job in zip(reasons, own, strict=True) if reason])
    missing = [job for reason, job in zip(reasons, own, strict=True) if reason]
    clear_leftovers({job.path.parent for job in missing}, files.suffix)
    return missing


def _why_stale(job: _Job) -> str | None:
    as_stored = job.source.caption == job.record.caption
    return why_text_stale(job.path, job.source, _caption_file(job.record), as_stored=as_stored)


def _caption_file(record: ImageRecord) -> Path | None:
    """Where the caption was most likely read from."""
    if record.subset.metadata_file:
        return Path(record.subset.metadata_file)
    extension = record.subset.caption_extension
    return record.path.with_suffix(extension if extension.startswith(".") else f".{extension}")


def _write_files(jobs: list[_Job], encode: Encode, batch_size: int, first_width: int, show_progress: bool, alone: bool) -> None:
    """alone: no other process shares the files; then what cannot be written, as on a full disk, stays in memory."""
    states = _encoded([job.source.caption for job in jobs], encode, batch_size, show_progress)
    told = False
    for job, own in zip(jobs, states, strict=True):
        try:
            write_text_states(job.path, own, first_width, job.source)
        except OSError as fault:
            message = f"the text cache file {job.path} could not be written: {fault}; {room_left(job.path.parent)}"
            if not alone:
                raise ValueError(f"{message}. Make room, or leave out --cache_text_encoder_outputs_to_disk") from fault
            if not told:
                logger.error("%s. What cannot be written stays in memory for this run", message)
            told, job.record.cached_text.states[job.number] = True, own


def _encoded(captions: list[str], encode: Encode, batch_size: int, show_progress: bool) -> Iterator[dict[str, Tensor]]:
    """The states of each caption in turn, encoded in batches."""
    silent = not show_progress or not captions
    with progress_bar(total=len(captions), desc="caching text encoder outputs", unit="caption", disable=silent) as bar:
        for start in range(0, len(captions), batch_size):
            batch = captions[start : start + batch_size]
            encoded = encode(batch)
            for number in range(len(batch)):
                yield {name: tensor[number].clone() for name, tensor in encoded.items()}
            bar.update(len(batch))


def _warn_of_options_without_effect(group: DatasetGroup, variants: int | None, as_stored: bool) -> None:
    options = IDLE_AS_STORED if as_stored else () if variants else ("enable_wildcard",)
    for dataset in group.datasets:
        for subset in dataset.subsets:
            idle = [f"--{option}" for option in options if getattr(subset, option)]
            if idle:
                logger.warning(
                    "%s: %s has no effect, as each caption is encoded once and for all", subset_name(subset), ", ".join(idle)
                )
