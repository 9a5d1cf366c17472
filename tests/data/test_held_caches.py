"""Small caches are read into memory once: batches are the same, and no worker process is started."""

import numpy as np
import pytest
import torch

from library.data.batch import pinned
from library.data.held_caches import change_caches, hold_small_caches, keep_on_device
from library.data.latent_cache import cache_latents
from library.data.loader import BatchLoader
from library.data.subsets import Subset
from library.data.text_cache import cache_text_states
from tests.data.scenes import painted_group
from tests.data.test_latent_cache import MEMORY, SD
from tests.data.test_latent_cache import Encoder as Vae
from tests.data.test_text_cache import FILES
from tests.data.test_text_cache import Encoder as TextEncoder

BYTES = 2 * 3 * 4 * 8 * 8 * 4 + 3 * 4 * 64 * 64  # three images both ways round, and their masks


def cached(folder, *, strict_compat: bool = False, latents=SD, text_files=FILES):
    subset = Subset(image_dir=str(folder), num_repeats=2, flip_aug=True, alpha_mask=True)
    group = painted_group(folder, 3, mode="RGBA", subset=subset, strict_compat=strict_compat)
    cache_latents(group, Vae(), **latents)
    cache_text_states(group, TextEncoder(), files=text_files)
    return group


def batches(group) -> list:
    return [group[epoch, 0, number] for epoch in (1, 2) for number in range(len(group))]


def assert_same(one, other) -> None:
    assert (one.image_keys, one.captions, one.flipped) == (other.image_keys, other.captions, other.flipped)
    for name in ("latents", "alpha_masks", "original_sizes_hw", "crop_top_lefts", "target_sizes_hw"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for name, states in one.text_states.items():
        assert torch.equal(states, other.text_states[name]), name


def workers(group, **options) -> int:
    settings = {"workers": 1, "persistent_workers": False, "shuffle": True, "strict_compat": False, "seed": 1} | options
    return BatchLoader(group, **settings)._loader.num_workers


def test_held_caches_give_the_batches_that_the_files_give(tmp_path):
    group = cached(tmp_path)
    from_files = batches(group)
    assert any(batch.flipped == [True] for batch in from_files) and any(batch.flipped == [False] for batch in from_files)
    hold_small_caches([group])
    for file in tmp_path.glob("*.npz"):
        file.unlink()
    for one, other in zip(from_files, batches(group), strict=True):
        assert_same(one, other)


def test_batches_from_memory_need_no_workers(tmp_path):
    group = cached(tmp_path)
    assert not group.needs_no_file and workers(group) == 1
    hold_small_caches([group])
    assert group.needs_no_file and workers(group) == 0


def test_caches_made_in_memory_need_no_workers(tmp_path):
    assert workers(cached(tmp_path, latents=MEMORY, text_files=None)) == 0


@pytest.mark.parametrize("images_only", [True, False])
def test_images_and_text_files_that_are_still_read_need_workers(images_only, tmp_path):
    group = painted_group(tmp_path, 2)
    if not images_only:
        cache_latents(group, Vae(), **MEMORY)
        cache_text_states(group, TextEncoder(), files=FILES)
    assert workers(group) == 1


def test_strict_compat_reads_files_in_workers_as_sd_scripts_does(tmp_path):
    group = cached(tmp_path, strict_compat=True)
    hold_small_caches([group])
    assert not group.needs_no_file
    in_memory = cached(tmp_path, strict_compat=True, latents=MEMORY, text_files=None)
    assert workers(in_memory, strict_compat=True) == 1


def test_what_is_larger_than_allowed_stays_on_disk(tmp_path):
    group = cached(tmp_path)
    texts = sum(file.stat().st_size for file in tmp_path.glob("*_te_outputs.npz"))
    hold_small_caches([group], most_bytes=BYTES + texts - 1)
    assert not group.needs_no_file
    hold_small_caches([group], most_bytes=BYTES + texts)
    assert group.needs_no_file


def test_a_damaged_file_is_told_by_its_name(tmp_path):
    group = cached(tmp_path)
    file = next(tmp_path.glob("i0_*_sd.npz"))
    np.savez(file, latents=np.zeros(3))
    with pytest.raises(ValueError, match=f"latent cache file {file}"):
        hold_small_caches([group])


def tensors_of(group) -> list[torch.Tensor]:
    found = []
    for record in group.records:
        change_caches(record, lambda tensor: found.append(tensor) or tensor)
    return found


@pytest.mark.parametrize("latents", [SD, MEMORY])
def test_caches_go_to_the_device_if_they_fit_there(latents, tmp_path):
    group = cached(tmp_path, latents=latents, text_files=FILES if latents is SD else None)
    hold_small_caches([group])
    distinct = {id(tensor): tensor.nbytes for tensor in tensors_of(group)}
    keep_on_device([group], torch.device("meta"), sum(distinct.values()) - 1)
    assert {tensor.device.type for tensor in tensors_of(group)} == {"cpu"}
    keep_on_device([group], torch.device("meta"), sum(distinct.values()))
    assert {tensor.device.type for tensor in tensors_of(group)} == {"meta"}
    assert len({id(tensor) for tensor in tensors_of(group)}) == len(distinct)
    batch = group[1, 0, 0]
    on_device = [batch.latents, batch.alpha_masks, *batch.text_states.values()]
    assert {tensor.device.type for tensor in on_device} == {"meta"} and all(pinned(tensor) is tensor for tensor in on_device)
    assert batch.loss_weights.device.type == "cpu"


def test_batches_are_the_same_from_any_device(tmp_path):
    group = cached(tmp_path)
    hold_small_caches([group])
    expected = batches(group)
    keep_on_device([group], torch.device("cpu"), 2**30)
    for one, other in zip(expected, batches(group), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("strict_compat", [True, False])
def test_what_workers_read_or_send_stays_in_main_memory(strict_compat, tmp_path):
    group = cached(tmp_path, strict_compat=strict_compat, latents=MEMORY, text_files=None if strict_compat else FILES)
    before = {tensor.device.type for tensor in tensors_of(group)} if strict_compat else {"cpu"}
    keep_on_device([group], torch.device("meta"), 2**30)
    assert before == {"cpu"} and {record.latents.device.type for record in group.records} == {"cpu"}
