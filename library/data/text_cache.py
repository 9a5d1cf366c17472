"""Caching text encoder outputs: every caption through the text encoders once, into memory or into files beside the images.

What is encoded is the caption as it stands in its file: options that change captions while training have no effect on it.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from library.data.cache_report import log_stale
from library.data.group import DatasetGroup, subset_name
from library.data.subsets import ImageRecord
from library.data.text_files import TextSource, text_states_path, why_text_stale, write_text_states
from library.data.threads import map_in_threads

logger = logging.getLogger(__name__)

WITHOUT_EFFECT = ("caption_prefix", "caption_suffix", "caption_dropout_every_n_epochs", "enable_wildcard", "secondary_separator")


@dataclass
class _Job:
    """One caption to encode. `path` None keeps its states in memory."""

    record: ImageRecord
    source: TextSource
    path: Path | None = None


@dataclass
class _Names:
    """Which caption each cache file of this run belongs to, so that no two captions share one."""

    owners: dict[Path, str] = field(default_factory=dict)

    def path(self, record: ImageRecord, suffix: str) -> Path:
        """sd-scripts' name; qualified if an image of the same stem with another caption has taken that."""
        for qualifier in ("", record.path.suffix):
            path = text_states_path(record.path, suffix, qualifier)
            if self.owners.setdefault(path, record.caption) == record.caption:
                return path
        raise ValueError(
            f"{record.path} is used with two captions, but {path} can hold one: leave out --cache_text_encoder_outputs_to_disk"
        )


def cache_text_states(
    group: DatasetGroup,
    encode: Callable[[list[str]], dict[str, Tensor]],
    *,
    to_disk: bool,
    suffix: str,
    first_width: int,
    token_length: int,
    skip_check: bool = False,
    rank: int = 0,
    world: int = 1,
    encoders_id: str = "",
) -> None:
    """Gives every record its text states, or with `to_disk` the path of its cache file.

    encode: captions -> prompt_embeds (B, L, D1 + D2) and pooled_prompt_embeds (B, D2), on the CPU. first_width: D1.
    token_length: 77 or --max_token_length + 2. encoders_id: a name for the text encoders, such as their hash.
    With `to_disk` this process makes every world-th file: wait for the others before training.
    """
    _warn_of_options_without_effect(group)
    names = _Names()
    for dataset in group.datasets:
        records = dataset.records.values()
        jobs = [_Job(record, TextSource(record.caption, token_length, encoders_id)) for record in records]
        if to_disk:
            jobs = _files_to_make(jobs, names, suffix, skip_check, rank, world)
        if jobs:
            _encode_all(jobs, encode, dataset.settings.batch_size, first_width, show_progress=rank == 0)


def _files_to_make(jobs: list[_Job], names: _Names, suffix: str, skip_check: bool, rank: int, world: int) -> list[_Job]:
    """Gives each record the path of its file; returns those of this process whose file is missing or stale, and logs why."""
    for job in jobs:
        job.path = job.record.text_states_npz = names.path(job.record, suffix)
    own = jobs[rank::world]
    if skip_check:
        return [job for job in own if not job.path.exists()]
    reasons = map_in_threads(lambda job: why_text_stale(job.path, job.source, _caption_file(job.record)), own)
    log_stale("text cache files", [(reason, job.path) for reason, job in zip(reasons, own, strict=True) if reason])
    return [job for reason, job in zip(reasons, own, strict=True) if reason]


def _caption_file(record: ImageRecord) -> Path | None:
    """Where the caption was most likely read from."""
    if record.subset.metadata_file:
        return Path(record.subset.metadata_file)
    extension = record.subset.caption_extension
    return record.path.with_suffix(extension if extension.startswith(".") else f".{extension}")


def _encode_all(
    jobs: list[_Job], encode: Callable[[list[str]], dict[str, Tensor]], batch_size: int, first_width: int, show_progress: bool
) -> None:
    with tqdm(total=len(jobs), desc="caching text encoder outputs", unit="caption", disable=not show_progress) as progress:
        for start in range(0, len(jobs), batch_size):
            batch = jobs[start : start + batch_size]
            encoded = encode([job.record.caption for job in batch])
            for number, job in enumerate(batch):
                states = {name: tensor[number].clone() for name, tensor in encoded.items()}
                if job.path is None:
                    job.record.text_states = states
                else:
                    write_text_states(job.path, states, first_width, job.source)
            progress.update(len(batch))


def _warn_of_options_without_effect(group: DatasetGroup) -> None:
    for dataset in group.datasets:
        for subset in dataset.subsets:
            idle = [f"--{option}" for option in WITHOUT_EFFECT if getattr(subset, option)]
            if idle:
                logger.warning(
                    "%s: %s has no effect, as text encoder outputs are cached from the captions as they are",
                    subset_name(subset),
                    ", ".join(idle),
                )
