"""Tensor files: what is written comes back, whole or not at all, and damaged files are named."""

import os

import pytest
import torch
from safetensors.torch import load_file

from library.saving.header import read_metadata
from library.saving.weights import load_tensors, save_tensors


def tensors():
    return {"lora_down.weight": torch.arange(12.0).reshape(3, 4), "alpha": torch.tensor(2.0)}


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt", ".pt", ".SAFETENSORS"])
def test_tensors_come_back_as_they_were_saved(tmp_path, ending):
    save_tensors(tmp_path / f"lora{ending}", tensors(), None)
    found = load_tensors(tmp_path / f"lora{ending}")
    assert all(torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors().items())


def test_every_tensor_is_cast_alpha_too(tmp_path):
    save_tensors(tmp_path / "lora.safetensors", tensors(), None, torch.bfloat16)
    assert {tensor.dtype for tensor in load_file(tmp_path / "lora.safetensors").values()} == {torch.bfloat16}


def test_an_integer_alpha_stays_one_without_a_dtype(tmp_path):
    save_tensors(tmp_path / "lora.safetensors", {"alpha": torch.tensor(1)}, None)
    assert load_file(tmp_path / "lora.safetensors")["alpha"].dtype == torch.int64


def test_views_of_one_tensor_are_saved_apart(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    save_tensors(tmp_path / "lora.safetensors", {"whole": whole, "same": whole, "part": whole[:, 1:3], "turned": whole.T}, None)
    assert torch.equal(load_file(tmp_path / "lora.safetensors")["turned"], whole.T)


def test_metadata_comes_back(tmp_path):
    save_tensors(tmp_path / "lora.safetensors", tensors(), {"ss_seed": "42"})
    assert read_metadata(tmp_path / "lora.safetensors") == {"ss_seed": "42"}


@pytest.mark.parametrize("metadata", [None, {}])
def test_empty_metadata_is_left_out(tmp_path, metadata):
    save_tensors(tmp_path / "lora.safetensors", tensors(), metadata)
    assert b"__metadata__" not in (tmp_path / "lora.safetensors").read_bytes()


def test_a_pickled_file_has_no_metadata(tmp_path):
    save_tensors(tmp_path / "lora.pt", tensors(), {"ss_seed": "42"})
    assert read_metadata(tmp_path / "lora.pt") == {}


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"lora\.txt.*\.safetensors"):
        save_tensors(tmp_path / "lora.txt", tensors(), None)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    save_tensors(tmp_path / "lora.safetensors", tensors(), None)
    with pytest.raises(Exception):  # noqa: B017  the writer's own error, whichever version of safetensors it is
        save_tensors(tmp_path / "lora.safetensors", {"alpha": torch.tensor(3.0)}, {"ss_seed": 42})
    assert os.listdir(tmp_path) == ["lora.safetensors"] and load_tensors(tmp_path / "lora.safetensors")["alpha"] == 2


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
def test_a_file_cut_short_is_named(tmp_path, ending):
    path = tmp_path / f"lora{ending}"
    save_tensors(path, tensors(), None)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=f"lora{ending}"):
        load_tensors(path)


@pytest.mark.parametrize("read", [load_tensors, read_metadata])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match="absent"):
        read(tmp_path / "absent.safetensors")


def test_an_empty_pickle_is_named(tmp_path):
    (tmp_path / "lora.pt").touch()
    with pytest.raises(ValueError, match=r"lora\.pt"):
        load_tensors(tmp_path / "lora.pt")


class RunsOnLoading:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_a_pickle_that_would_run_a_program_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": RunsOnLoading()}, "evil.ckpt")
    with pytest.raises(ValueError, match="more than tensors"):
        load_tensors("evil.ckpt")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_with_a_state_dict_inside_gives_that(tmp_path):
    torch.save({"state_dict": tensors(), "global_step": 5}, tmp_path / "model.ckpt")
    assert set(load_tensors(tmp_path / "model.ckpt")) == set(tensors())


def test_a_pickle_of_something_else_is_named(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt"):
        load_tensors(tmp_path / "list.pt")
