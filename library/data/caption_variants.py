"""Which captions stand for an image whose text is encoded before training: one that never changes, or several variants."""

import random
from dataclasses import replace

from library.data.captions import process_caption
from library.data.group import DatasetGroup
from library.data.subsets import ImageRecord, Subset


def caption_variants(record: ImageRecord, count: int | None, *, as_stored: bool) -> tuple[str, ...]:
    """The captions to encode, as training will use them.

    count: how many variants with tags shuffled and left out and wildcards chosen; None: the one caption without such changes.
    The variants follow from the caption alone, so files of an earlier run fit. as_stored: the text of the file as it is.
    Captions that are dropped are no matter of variants: see CachedText.empty.
    """
    if as_stored:
        return (record.caption,)
    subset = replace(record.subset, caption_dropout_rate=0.0, caption_dropout_every_n_epochs=0, token_warmup_step=0)
    if count is None:
        return (_processed(record.caption, _unchanging(subset), random.Random(0)),)
    return tuple(_processed(record.caption, subset, random.Random(f"variant {number} {record.caption}")) for number in range(count))


def _unchanging(subset: Subset) -> Subset:
    return replace(subset, shuffle_caption=False, caption_tag_dropout_rate=0.0, enable_wildcard=False)


def _processed(caption: str, subset: Subset, rng: random.Random) -> str:
    return process_caption(caption, subset, rng=rng, epoch=1, step=0, max_train_steps=0)


def count_captions(group: DatasetGroup, count: int | None, *, as_stored: bool) -> int:
    """How many different captions `caption_variants` gives for all images of a group."""
    records = [record for dataset in group.datasets for record in dataset.records.values()]
    return len({caption for record in records for caption in caption_variants(record, count, as_stored=as_stored)})


def drops_captions(subset: Subset) -> bool:
    """Whether a caption of the subset is empty at times."""
    return subset.caption_dropout_rate > 0 or subset.caption_dropout_every_n_epochs > 0
