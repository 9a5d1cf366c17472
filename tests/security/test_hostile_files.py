"""Files made to do harm: nothing in them runs, nothing they say about themselves is believed, and each is refused by name."""

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from library.data.latent_files import LARGEST_ARRAY, open_npz, read_latents
from library.data.text_files import read_text_states
from library.models.checkpoints import open_checkpoint
from library.models.streams import open_stream
from library.models.vae import VaeLoader
from library.saving.header import read_metadata
from library.saving.state import read_random_states, read_state
from library.saving.state_record import check_whole
from library.saving.weights import load_pickled, load_tensors
from networks.files.adapter_file import open_adapter

ROOT = Path(__file__).parents[2]


class Code:
    """Pickles as an instruction to make a file."""

    def __reduce__(self):
        return open, ("CODE_RAN", "w")


def zipped(path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}, "hidden": Code()}, path)


def old_form(path: Path) -> None:
    torch.save({"a": torch.zeros(1), "hidden": Code()}, path, _use_new_zipfile_serialization=False)


def plain(path: Path) -> None:
    path.write_bytes(pickle.dumps(Code()))


READERS = {
    "a model": open_checkpoint,
    "a file given to a tool": open_stream,
    "an adapter given to a tool": open_adapter,
    "network weights": load_tensors,
    "a part of a state": load_pickled,
    "a VAE": lambda path: VaeLoader(str(path), 0.18215, 64, False, torch.float32, "cpu").of_folder("unused"),
}


@pytest.mark.parametrize("form", [zipped, old_form, plain])
@pytest.mark.parametrize("reader", READERS)
def test_a_pickle_that_would_run_code_is_refused_by_name(reader, form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    form(tmp_path / "file.pt")
    with pytest.raises(ValueError, match="file.pt"):
        READERS[reader](tmp_path / "file.pt")
    assert not Path("CODE_RAN").exists()


@pytest.mark.parametrize("part", ["optimizer.bin", "scheduler.bin", "scaler.pt", "random_states_0.pkl", "pytorch_model.bin"])
def test_no_part_of_a_training_state_runs_code(part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if part != "pytorch_model.bin":
        save_file({"a": torch.zeros(1)}, "model.safetensors")
    torch.save({"state": {}, "param_groups": []}, "optimizer.bin")
    zipped(Path(part))
    check_whole(Path())
    with pytest.raises(ValueError, match=part):
        read_state(Path())
        read_random_states(Path(), 0)
    assert not Path("CODE_RAN").exists()


def table(entries: dict, data: bytes = b"", length: int | None = None) -> bytes:
    """A .safetensors file with this table of contents, right or wrong."""
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list, start: int, end: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


WRONG_TABLES = {
    "longer than the file": table({}, length=2**62),
    "longer than the file by one": table({"a": entry([1], 0, 4)}, bytes(4), length=10**6),
    "past the end": table({"a": entry([1], 0, 4)}),
    "far past the end": table({"a": entry([2**40], 0, 2**42)}, bytes(4)),
    "a size that overflows": table({"a": entry([2**40, 2**40], 0, 4)}, bytes(4)),
    "overlapping": table({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
    "one within the other": table({"a": entry([2], 0, 8), "b": entry([1], 0, 4)}, bytes(8)),
    "a gap": table({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)),
    "backwards": table({"a": entry([1], 4, 0)}, bytes(4)),
    "negative": table({"a": entry([-1], 0, 4)}, bytes(4)),
    "another size than the shape": table({"a": entry([3], 0, 4)}, bytes(4)),
    "an unknown kind": table({"a": entry([1], 0, 4, "X99")}, bytes(4)),
    "data nobody owns": table({"a": entry([1], 0, 4)}, bytes(400)),
    "metadata that is no text": table({"__metadata__": {"a": {"b": "c"}}}),
    "nested deeply": struct.pack("<Q", 200000) + b"[" * 200000,
    "no table": table([]),
    "no JSON": struct.pack("<Q", 4) + b"abcd",
}


@pytest.mark.parametrize("reader", [open_checkpoint, lambda path: open_checkpoint(path, True), open_stream, load_tensors, read_metadata])
def test_a_table_of_contents_that_lies_is_refused_by_name(reader, tmp_path):
    believed = []
    for name, content in WRONG_TABLES.items():
        path = tmp_path / "file.safetensors"
        path.write_bytes(content)
        try:
            reader(path)
        except ValueError as fault:
            assert "file.safetensors" in str(fault), name
        else:
            believed.append(name)
    assert not believed


def test_metadata_of_ten_megabytes_is_read_and_of_a_hundred_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "large.safetensors", {"note": "x" * 10**7})
    assert len(read_metadata(tmp_path / "large.safetensors")["note"]) == 10**7
    with open(tmp_path / "bomb.safetensors", "wb") as file:
        file.write(struct.pack("<Q", 10**8 + 8))
        file.truncate(2 * 10**8)
    with pytest.raises(ValueError, match="bomb.safetensors"):
        read_metadata(tmp_path / "bomb.safetensors")


def test_an_adapters_settings_that_are_no_json_are_refused_by_name(tmp_path):
    tensors = {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.zeros(2, 4)}
    for text in ("{", "[1]", '{"x.lora_alpha": "many"}', "[" * 10**5):
        save_file(tensors, tmp_path / "lora.safetensors", {"lora_adapter_metadata": text})
        with pytest.raises(ValueError, match="lora.safetensors"):
            open_adapter(tmp_path / "lora.safetensors")


def npz(path: Path, **arrays) -> None:
    with open(path, "wb") as file:
        np.savez(file, **arrays)


@pytest.mark.parametrize("read", [lambda path: read_latents(path, flipped=False, alpha_mask=False), read_text_states])
def test_python_objects_in_a_cache_are_not_unpickled(read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("latents", "original_size", "crop_ltrb", "hidden_state1", "hidden_state2", "pool2")
    npz(tmp_path / "cache.npz", **{name: np.array([Code()], dtype=object) for name in names})
    with pytest.raises(ValueError, match="cache.npz"):
        read(tmp_path / "cache.npz")
    assert not Path("CODE_RAN").exists()


def test_a_cache_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("library.data.latent_files.LARGEST_ARRAY", 10**6)
    assert LARGEST_ARRAY > 10**9
    content = io.BytesIO()
    np.save(content, np.zeros(10**6, np.float32))
    with zipfile.ZipFile(tmp_path / "cache.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("latents.npy", content.getvalue())
    assert (tmp_path / "cache.npz").stat().st_size < 10**4
    with pytest.raises(ValueError, match=r"cache.npz.*GiB"):
        read_latents(tmp_path / "cache.npz", flipped=False, alpha_mask=False)


def test_an_array_of_a_size_that_is_not_there_takes_no_memory(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8)
    with zipfile.ZipFile(tmp_path / "cache.npz", "w") as archive:
        archive.writestr("latents.npy", member)
    with open_npz(tmp_path / "cache.npz") as arrays, pytest.raises(ValueError):
        arrays["latents"]


def test_members_of_a_cache_are_read_by_name_and_never_written_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "cache.npz", "w") as archive:
        archive.writestr("../../outside.npy", b"x")
        archive.writestr("/outside.npy", b"x")
    with pytest.raises(ValueError, match="cache.npz"):
        read_latents(tmp_path / "cache.npz", flipped=False, alpha_mask=False)
    assert [path.name for path in tmp_path.iterdir()] == ["cache.npz"]


def test_no_source_asks_for_code_from_files_or_repositories():
    forbidden = ("weights_only=False", "allow_pickle=True", "trust_remote_code", "pickle.load", "yaml.load", "eval(", "exec(", "shell=True")
    folders = [ROOT / name for name in ("library", "networks", "tools")]
    files = [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    found = [
        f"{path.relative_to(ROOT)}: {words}"
        for path in files
        for words in forbidden
        for line in path.read_text(encoding="utf-8").splitlines()
        if words in line.replace(".eval(", "").replace("_eval(", "")
    ]
    assert not found


def test_code_in_a_model_folder_is_not_run(tiny_models, tmp_path, monkeypatch):
    import shutil

    from library.models.sd import SD

    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(tiny_models("sd1"), tmp_path / "model")
    code = "open('CODE_RAN', 'w')\nclass Own: pass\n"
    for place in (folder, folder / "unet", folder / "text_encoder"):
        (place / "own.py").write_text(code)
        (place / "pipeline.py").write_text(code)
    for part, change in {
        "model_index.json": {"unet": ["own", "Own"], "_class_name": ["own", "Own"]},
        "unet/config.json": {"_class_name": "Own", "auto_map": {"AutoModel": "own.Own"}},
        "text_encoder/config.json": {"auto_map": {"AutoModel": "own.Own", "AutoConfig": "own.Own"}},
    }.items():
        path = folder / part
        path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | change))
    models = SD().load(str(folder))
    assert type(models.unet).__name__ == "UNet2DConditionModel" and not Path("CODE_RAN").exists()
