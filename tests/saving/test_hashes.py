"""Hashes of saved networks and model files."""

import hashlib

import pytest
import safetensors.torch
import torch

from library.saving.hashes import FileHashes, file_hashes, legacy_hash, model_hash, network_hashes
from library.saving.header import read_metadata
from library.saving.weights import load_tensors

NOTHING = hashlib.sha256(b"").hexdigest()[:8]


def network(megabytes: float = 0.001):
    torch.manual_seed(0)
    return {"up": torch.randn(int(megabytes * 2**18)), "alpha": torch.tensor(4, dtype=torch.int64), "half": torch.ones(3).half()}


def test_hashes_of_a_network_saved_by_sd_scripts_are_the_ones_in_it(request):
    path = request.config.getoption("golden_dir") / "artifacts" / "a_plain.safetensors"
    if not path.is_file():
        pytest.skip(f"{path} is not among the recordings")
    metadata = read_metadata(path)
    assert network_hashes(load_tensors(path), metadata) == (metadata["sshs_model_hash"], metadata["sshs_legacy_hash"])


def test_the_model_hash_is_that_of_the_tensor_data_in_the_file(tmp_path):
    safetensors.torch.save_file(network(), tmp_path / "n.safetensors", metadata={"any": "thing"})
    content = (tmp_path / "n.safetensors").read_bytes()
    data = content[8 + int.from_bytes(content[:8], "little") :]
    assert model_hash(network()) == hashlib.sha256(data).hexdigest()


def test_the_model_hash_does_not_depend_on_metadata_or_order():
    assert network_hashes(dict(reversed(network().items())), {"ss_seed": "1"})[0] == model_hash(network())


def test_the_legacy_hash_of_a_small_network_is_that_of_nothing():
    assert legacy_hash(network(), {"ss_seed": "1"}) == NOTHING == "e3b0c442"


def test_the_legacy_hash_covers_64_kib_after_the_first_mib():
    serialised = safetensors.torch.save(network(1.5), {"ss_seed": "1"})
    expected = hashlib.sha256(serialised[0x100000:0x110000]).hexdigest()[:8]
    assert legacy_hash(network(1.5), {"ss_seed": "1", "modelspec.title": "left out"}) == expected


def test_a_file_has_a_legacy_and_a_full_hash(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "model.ckpt").write_bytes(content)
    legacy = hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
    assert file_hashes(tmp_path / "model.ckpt") == (legacy, hashlib.sha256(content).hexdigest())


def test_a_folder_has_the_word_for_it(tmp_path):
    assert file_hashes(tmp_path) == ("IsADirectory", "IsADirectory")


def test_hashing_in_the_background_gives_the_same(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"weights")
    assert FileHashes(tmp_path / "model.ckpt").result() == file_hashes(tmp_path / "model.ckpt")


def test_a_file_that_cannot_be_read_is_told_when_asked(tmp_path):
    with pytest.raises(OSError, match="absent"):
        FileHashes(tmp_path / "absent.ckpt").result()
