from collections import Counter

import numpy as np
import pytest
import torch

from library.data.batch import Batch
from library.data.loader import BatchLoader
from library.data.subsets import Subset
from tests.data.scenes import painted_group

SIZES = ((64, 64), (128, 64), (70, 90))


@pytest.fixture(autouse=True)
def two_processors(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)


@pytest.fixture
def group(tmp_path):
    """Every kind of chance is on: flips, crops, colours, captions."""
    subset = Subset(
        image_dir=str(tmp_path), num_repeats=3, flip_aug=True, random_crop=True, color_aug=True, shuffle_caption=True, token_warmup_step=9
    )
    return painted_group(tmp_path, 7, sizes=SIZES, subset=subset, batch_size=2)


def loader(group, **options) -> BatchLoader:
    options = {"workers": 0, "persistent_workers": False, "shuffle": True, "strict_compat": False, "seed": 1} | options
    return BatchLoader(group, **options)


def content(batch: Batch) -> tuple:
    """All that could differ between two batches."""
    sizes = batch.crop_top_lefts.tolist(), batch.original_sizes_hw.tolist()
    return batch.image_keys, batch.captions, batch.flipped, batch.epoch, batch.step, sizes, batch.images.sum(dim=(1, 2, 3)).tolist()


def run(loader: BatchLoader, epochs=(1, 2), **options) -> list[tuple]:
    return [content(batch) for epoch in epochs for batch in loader.epoch(epoch, first_step=(epoch - 1) * len(loader), **options)]


@pytest.mark.parametrize("options", [{"workers": 1}, {"workers": 2}, {"workers": 2, "persistent_workers": True}])
def test_worker_processes_change_nothing(group, options):
    assert run(loader(group, **options)) == run(loader(group))


def test_an_epoch_does_not_depend_on_those_before(group):
    assert run(loader(group), epochs=(3,)) == run(loader(group), epochs=(1, 2, 3))[-len(loader(group)) :]


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_into_an_epoch_gives_the_batches_that_were_left(group, workers):
    whole = run(loader(group), epochs=(2,))
    assert run(loader(group, workers=workers), epochs=(2,), skip=5) == whole[5:]


def test_skipped_batches_are_not_loaded(group, monkeypatch):
    loaded, batch = [], group.datasets[0].batch
    monkeypatch.setattr(group.datasets[0], "batch", lambda index, epoch, step: loaded.append(index) or batch(index, epoch=epoch, step=step))
    whole = loader(group)
    list(whole.epoch(1, skip=len(whole) - 2))
    assert len(loaded) == 2


def test_global_random_numbers_are_neither_used_nor_changed(group):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = run(loader(group))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert run(loader(group)) == first


def test_another_seed_or_epoch_gives_another_order(group):
    first = [keys for keys, *_ in run(loader(group), epochs=(1,))]
    assert first != [keys for keys, *_ in run(loader(group), epochs=(2,))]
    group.set_seed(2)
    assert first != [keys for keys, *_ in run(loader(group, seed=2), epochs=(1,))]


def test_every_image_occurs_as_often_as_it_is_repeated_in_every_epoch(group):
    for epoch in (1, 2, 3):
        counts = Counter(key for batch in loader(group, workers=2).epoch(epoch) for key in batch.image_keys)
        assert sorted(counts.values()) == [3] * 7


def test_the_step_of_a_batch_is_the_one_it_is_used_in(group):
    steps = [batch.step for batch in loader(group, accumulation=2).epoch(2, first_step=10, skip=3)]
    assert steps[:4] == [11, 12, 12, 13]


def test_processes_share_an_epoch_and_get_equally_many_batches(group):
    whole = [content(batch) for batch in loader(group).epoch(1)]
    shares = [[content(batch)[0] for batch in loader(group, rank=rank, world=3).epoch(1)] for rank in range(3)]
    assert [len(share) for share in shares] == [-(-len(whole) // 3)] * 3
    padded = [keys for keys, *_ in whole + whole][: 3 * len(shares[0])]
    assert shares == [padded[rank::3] for rank in range(3)]


def test_without_shuffling_batches_come_in_order(group):
    assert [batch.batch_index for batch in loader(group, shuffle=False).epoch(1)] == list(range(len(group)))


def test_an_epoch_that_was_left_early_does_not_disturb_the_next(group):
    expected = run(loader(group), epochs=(2,))
    persistent = loader(group, workers=2, persistent_workers=True)
    for batch in persistent.epoch(1):
        assert batch.epoch == 1
        break
    assert run(persistent, epochs=(2,))[0][0] == expected[0][0]


def test_kept_workers_without_workers_are_no_error(group):
    assert len(list(loader(group, workers=0, persistent_workers=True).epoch(1))) == len(group)


def test_strict_compat_fetches_one_batch_ahead_but_not_beyond_the_epoch(tmp_path, monkeypatch):
    group = painted_group(tmp_path, 3, strict_compat=True)
    fetched, strict = [], loader(group, strict_compat=True)
    original = group.datasets[0].believed_batch
    monkeypatch.setattr(group.datasets[0], "believed_batch", lambda index: fetched.append(index) or original(index))
    counts = [len(fetched) for _ in strict.epoch(1)]
    assert counts == [2, 3, 4, 5, 6, 7, 8, 9, 9]
    group2 = [len(fetched) for _ in strict.epoch(2)]
    assert group2[0] == 11


def test_strict_compat_skips_by_throwing_the_last_one_away(tmp_path):
    group = painted_group(tmp_path, 3, strict_compat=True)
    strict = loader(group, strict_compat=True)
    torch.manual_seed(0)
    assert len(list(strict.epoch(1, skip=4, first_step=4))) == len(strict) - 4


def test_a_batch_is_whole_again_after_its_way_from_a_worker(tmp_path):
    batch = painted_group(tmp_path, 2)[1, 0, 0]
    batch.text_states = {"prompt_embeds": torch.ones(1, 2, 3, dtype=torch.bfloat16), "pooled": torch.ones(1, 3)}
    batch.input_ids = [torch.arange(5)]
    packed = batch.packed()
    assert isinstance(packed.input_ids[0], np.ndarray) and isinstance(packed.text_states["prompt_embeds"], torch.Tensor)
    again = packed.unpacked()
    assert torch.equal(again.input_ids[0], batch.input_ids[0]) and torch.equal(again.images, batch.images)
    assert again.text_states.keys() == batch.text_states.keys() and torch.equal(again.loss_weights, batch.loss_weights)
