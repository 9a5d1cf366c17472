import logging
import os

import numpy as np
import pytest
import torch

from library.data.subsets import Subset
from library.data.text_cache import cache_text_states
from library.data.text_files import read_text_states
from tests.data.scenes import painted_group

DISK = {"to_disk": True, "suffix": "_te_outputs.npz", "first_width": 3, "token_length": 77}


class Encoder:
    def __init__(self, dtype: torch.dtype = torch.float32):
        self.dtype = dtype
        self.captions: list[list[str]] = []

    def __call__(self, captions: list[str]) -> dict[str, torch.Tensor]:
        self.captions.append(captions)
        lengths = torch.tensor([float(len(caption)) for caption in captions]).to(self.dtype)
        return {"prompt_embeds": lengths.view(-1, 1, 1).repeat(1, 77, 5), "pooled_prompt_embeds": lengths.view(-1, 1).repeat(1, 2)}


def records(group):
    return list(group.datasets[0].records.values())


def encoded_again(group, **options) -> int:
    encoder = Encoder()
    cache_text_states(group, encoder, **(DISK | options))
    return sum(map(len, encoder.captions))


@pytest.fixture
def cached(tmp_path):
    group = painted_group(tmp_path, 3, batch_size=2)
    cache_text_states(group, Encoder(), **DISK)
    return group


def test_files_have_the_names_keys_and_types_of_sd_scripts(cached, tmp_path):
    with np.load(tmp_path / "i0_te_outputs.npz") as arrays:
        found = {key: (arrays[key].shape, arrays[key].dtype.name) for key in arrays if key != "source"}
    assert found == {"hidden_state1": ((77, 3), "float32"), "hidden_state2": ((77, 2), "float32"), "pool2": ((2,), "float32")}


@pytest.mark.parametrize("dtype, stored", [(torch.bfloat16, torch.float32), (torch.float16, torch.float16)])
def test_half_precision_is_kept_and_bfloat16_becomes_float32(tmp_path, dtype, stored):
    cache_text_states(painted_group(tmp_path, 1), Encoder(dtype), **DISK)
    assert read_text_states(tmp_path / "i0_te_outputs.npz")["prompt_embeds"].dtype == stored


@pytest.mark.parametrize("to_disk", [True, False])
def test_training_gets_the_states_of_the_caption_as_it_stands(tmp_path, to_disk):
    subset = Subset(image_dir=str(tmp_path), num_repeats=1, caption_prefix="not used")
    group = painted_group(tmp_path, 2, subset=subset, batch_size=2)
    cache_text_states(group, Encoder(), **(DISK | {"to_disk": to_disk}))
    group.set_tokenize(lambda captions: pytest.fail("cached captions need no tokens"))
    batch = group[1, 0, 0]
    assert batch.captions == [group.datasets[0].records[key].caption for key in batch.image_keys] and batch.input_ids is None
    assert batch.text_states["prompt_embeds"].shape == (2, 77, 5)
    assert batch.text_states["pooled_prompt_embeds"][:, 0].tolist() == [len(caption) for caption in batch.captions]


def test_captions_are_encoded_in_order_and_in_batches_of_the_data_set(tmp_path):
    group, encoder = painted_group(tmp_path, 3, batch_size=2), Encoder()
    cache_text_states(group, encoder, **(DISK | {"to_disk": False}))
    captions = [item.caption for item in records(group)]
    assert encoder.captions == [captions[:2], captions[2:]]


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


def test_skip_cache_check_takes_whatever_is_there(cached):
    records(cached)[0].caption = "another"
    assert encoded_again(cached, skip_check=True) == 0


def test_options_that_caching_makes_idle_are_told(tmp_path, caplog):
    subset = Subset(image_dir=str(tmp_path), caption_prefix="x", enable_wildcard=True)
    with caplog.at_level(logging.WARNING):
        cache_text_states(painted_group(tmp_path, 1, subset=subset), Encoder(), **DISK)
    assert "--caption_prefix, --enable_wildcard has no effect" in caplog.text
