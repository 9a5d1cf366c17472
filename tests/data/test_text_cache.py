import logging
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from library.data.subsets import Subset
from library.data.text_cache import TextFiles, cache_text_states
from library.data.text_files import read_text_states
from tests.data.scenes import painted_group

FILES = TextFiles(suffix="_te_outputs.npz", first_width=3, token_length=77)
TAGS = ("red", "green", "blue")


class Encoder:
    """States that are the length of the caption."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        self.dtype = dtype
        self.captions: list[list[str]] = []

    def __call__(self, captions: list[str]) -> dict[str, torch.Tensor]:
        self.captions.append(captions)
        lengths = torch.tensor([float(len(caption)) for caption in captions]).to(self.dtype)
        return {"prompt_embeds": lengths.view(-1, 1, 1).repeat(1, 77, 5), "pooled_prompt_embeds": lengths.view(-1, 1).repeat(1, 2)}


def records(group):
    return list(group.datasets[0].records.values())


def encoded_again(group, variants=None, **options) -> int:
    encoder = Encoder()
    cache_text_states(group, encoder, files=replace(FILES, **options), variants=variants)
    return sum(map(len, encoder.captions))


def trained(group, epoch: int = 1) -> list[tuple[str, float]]:
    """The captions of an epoch, each with the number its states are made of."""
    batches = [group[epoch, 0, number] for number in range(len(group))]
    numbers = [batch.text_states["pooled_prompt_embeds"][:, 0].tolist() for batch in batches]
    return [pair for batch, own in zip(batches, numbers, strict=True) for pair in zip(batch.captions, own, strict=True)]


@pytest.fixture
def cached(tmp_path):
    group = painted_group(tmp_path, 3, batch_size=2)
    cache_text_states(group, Encoder(), files=FILES)
    return group


def test_files_have_the_names_keys_and_types_of_sd_scripts(cached, tmp_path):
    with np.load(tmp_path / "i0_te_outputs.npz") as arrays:
        found = {key: (arrays[key].shape, arrays[key].dtype.name) for key in arrays if key != "source"}
    assert found == {"hidden_state1": ((77, 3), "float32"), "hidden_state2": ((77, 2), "float32"), "pool2": ((2,), "float32")}


@pytest.mark.parametrize("dtype, stored", [(torch.bfloat16, torch.float32), (torch.float16, torch.float16)])
def test_half_precision_is_kept_and_bfloat16_becomes_float32(tmp_path, dtype, stored):
    cache_text_states(painted_group(tmp_path, 1), Encoder(dtype), files=FILES)
    assert read_text_states(tmp_path / "i0_te_outputs.npz")["prompt_embeds"].dtype == stored


@pytest.mark.parametrize("files", [FILES, None])
@pytest.mark.parametrize("as_stored", [True, False])
def test_training_gets_the_states_of_the_caption_it_is_told(tmp_path, files, as_stored):
    subset = Subset(image_dir=str(tmp_path), num_repeats=1, caption_prefix="drawn:")
    group = painted_group(tmp_path, 2, subset=subset, batch_size=2)
    cache_text_states(group, Encoder(), files=files, as_stored=as_stored)
    group.set_tokenize(lambda captions: pytest.fail("cached captions need no tokens"))
    prefix = "" if as_stored else "drawn: "
    assert sorted(trained(group)) == [(prefix + item.caption, len(prefix + item.caption)) for item in records(group)]


def test_captions_are_encoded_in_order_and_in_batches_of_the_data_set(tmp_path):
    group, encoder = painted_group(tmp_path, 3, batch_size=2), Encoder()
    cache_text_states(group, encoder)
    captions = [item.caption for item in records(group)]
    assert encoder.captions == [captions[:2], captions[2:]]


def test_images_with_the_same_caption_share_its_states_in_memory(tmp_path):
    group, encoder = painted_group(tmp_path, 3), Encoder()
    for item in records(group):
        item.caption = "the same"
    cache_text_states(group, encoder)
    assert encoder.captions == [["the same"]]
    assert len({id(item.cached_text.states[0]) for item in records(group)}) == 1


def test_variants_are_shuffled_captions_chosen_anew_each_time(tmp_path):
    subset = Subset(image_dir=str(tmp_path), num_repeats=20, shuffle_caption=True, keep_tokens=2)
    group = painted_group(tmp_path, 1, subset=subset, batch_size=4)
    cache_text_states(group, Encoder(), variants=4)
    variants = set(records(group)[0].cached_text.captions)
    seen = trained(group)
    assert len(variants) > 1 and {caption for caption, _ in seen} == variants
    assert all(sorted(caption.split(", ")[2:]) == sorted(TAGS) for caption in variants)
    assert all(number == len(caption) for caption, number in seen)
    assert trained(group) == seen != trained(group, epoch=2)


def test_dropped_captions_get_the_states_of_the_empty_one(tmp_path):
    subset = Subset(image_dir=str(tmp_path), num_repeats=200, caption_dropout_rate=0.25)
    group = painted_group(tmp_path, 1, subset=subset, batch_size=10)
    cache_text_states(group, Encoder(), variants=1)
    dropped = [caption for caption, number in trained(group) if (caption, number) == ("", 0)]
    assert 30 < len(dropped) < 70


def test_captions_dropped_by_epoch_need_no_variants(tmp_path):
    subset = Subset(image_dir=str(tmp_path), num_repeats=1, caption_dropout_every_n_epochs=2)
    group = painted_group(tmp_path, 1, subset=subset)
    cache_text_states(group, Encoder())
    assert trained(group, epoch=2) == [("", 0)]
    assert trained(group, epoch=3) != [("", 0)]


def test_variants_have_files_of_their_own_that_a_second_run_uses(tmp_path):
    group = painted_group(tmp_path, 2, subset=Subset(image_dir=str(tmp_path), num_repeats=9, shuffle_caption=True))
    assert encoded_again(group, variants=3) == 6
    assert encoded_again(group, variants=3) == 0
    assert encoded_again(group, variants=4) == 2
    assert sorted(path.name for path in tmp_path.glob("i0*.npz")) == [f"i0_v{number}_te_outputs.npz" for number in range(4)]
    assert all(number == len(caption) for caption, number in trained(group))


def test_what_is_cached_is_not_encoded_again(cached):
    assert encoded_again(cached) == 0


def test_an_edited_caption_another_length_or_other_encoders_are_noticed(cached, caplog):
    records(cached)[1].caption = "another"
    with caplog.at_level(logging.WARNING):
        assert encoded_again(cached) == 1
    assert "of another caption: i1_te_outputs.npz" in caplog.text
    assert encoded_again(cached, token_length=227, encoders_id="a") == 3
    assert encoded_again(cached, token_length=227, encoders_id="b") == 3


def test_a_damaged_file_is_made_again(cached, tmp_path, caplog):
    (tmp_path / "i0_te_outputs.npz").write_bytes(b"PK")
    with caplog.at_level(logging.WARNING):
        assert encoded_again(cached) == 1
    assert "damaged" in caplog.text


def test_a_file_of_sd_scripts_is_taken_unless_it_is_older_than_the_caption(cached, tmp_path):
    path = tmp_path / "i0_te_outputs.npz"
    with np.load(path) as arrays:
        kept = {key: arrays[key] for key in arrays if key != "source"}
    np.savez(path, **kept)
    assert encoded_again(cached) == 0
    (tmp_path / "i0.caption").write_text("edited")
    os.utime(path, (0, 0))
    assert encoded_again(cached) == 1


def test_a_file_of_sd_scripts_does_not_do_for_a_caption_with_a_prefix(cached, tmp_path, caplog):
    path = tmp_path / "i0_te_outputs.npz"
    with np.load(path) as arrays:
        np.savez(path, **{key: arrays[key] for key in arrays if key != "source"})
    records(cached)[0].subset.caption_prefix = "drawn:"
    with caplog.at_level(logging.WARNING):
        encoded_again(cached)
    assert "without its prefix, suffix or other changes: i0_te_outputs.npz" in caplog.text


def test_skip_cache_check_takes_whatever_is_there(cached):
    records(cached)[0].caption = "another"
    assert encoded_again(cached, skip_check=True) == 0


@pytest.mark.parametrize(
    "options, idle",
    [({"as_stored": True}, "--caption_prefix, --enable_wildcard has no effect"), ({}, ": --enable_wildcard has no effect")],
)
def test_options_that_caching_makes_idle_are_told(tmp_path, caplog, options, idle):
    subset = Subset(image_dir=str(tmp_path), caption_prefix="x", enable_wildcard=True)
    with caplog.at_level(logging.WARNING):
        cache_text_states(painted_group(tmp_path, 1, subset=subset), Encoder(), **options)
    assert idle in caplog.text


def test_with_variants_all_options_act(tmp_path, caplog):
    subset = Subset(image_dir=str(tmp_path), caption_prefix="{x|y}", enable_wildcard=True)
    group = painted_group(tmp_path, 1, subset=subset)
    cache_text_states(group, Encoder(), variants=8)
    assert {caption[0] for caption in records(group)[0].cached_text.captions} == {"x", "y"}
    assert "no effect" not in caplog.text
