"""Files that are no model, or another one than the script trains: what is wrong and what to do."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from library.models.checkpoints import open_checkpoint
from library.models.kinds import kind_of_tensors, kind_of_unet_config
from library.models.sd import SD
from tests.models.conftest import FAMILIES


@pytest.mark.parametrize(
    ("wanted", "given", "advice"),
    [
        ("sd1", "sdxl", "an SDXL model.*sdxl_train_network.py"),
        ("sd2", "sdxl", "an SDXL model.*sdxl_train_network.py"),
        ("sd1", "sd2", "an SD2 model.*add --v2"),
        ("sd2", "sd1", "an SD1 model.*leave out --v2"),
        ("sdxl", "sd1", r"an SD1 model.*train_network\.py$"),
        ("sdxl", "sd2", "an SD2 model.*train_network.py --v2"),
    ],
)
def test_a_single_file_of_another_family_is_named(layouts, wanted, given, advice):
    with pytest.raises(ValueError, match=advice):
        FAMILIES[wanted].load(str(layouts(given).single_file))


@pytest.mark.parametrize(("wanted", "given", "advice"), [("sd1", "sdxl", "sdxl_train_network.py"), ("sdxl", "sd1", "train_network.py")])
def test_a_folder_of_another_family_is_named(layouts, wanted, given, advice):
    with pytest.raises(ValueError, match=advice):
        FAMILIES[wanted].load(str(layouts(given).folder))


def test_the_width_of_the_text_states_tells_sd1_from_sd2_in_folders(layouts, tmp_path):
    folder = shutil.copytree(layouts("sd2").folder, tmp_path / "model")
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"cross_attention_dim": 1024}))
    with pytest.raises(ValueError, match="an SD2 model.*add --v2"):
        SD().load(str(folder))


def test_an_inpainting_model_is_refused():
    assert kind_of_unet_config({"in_channels": 9, "cross_attention_dim": 768}) == "an inpainting model"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "an adapter (LoRA)"),
        ("lora_unet_x.hada_w1_a", "an adapter (LoRA)"),
        ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "a FLUX model"),
        ("down_blocks.0.resnets.0.conv1.weight", "the U-Net of a diffusers folder"),
        ("first_stage_model.encoder.conv_in.weight", "a VAE"),
        ("conditioner.embedders.0.model.ln_final.weight", "the SDXL refiner"),
        ("x", "an unknown model"),
    ],
)
def test_what_a_file_holds_is_said_in_words(tmp_path, name, kind):
    assert kind_of_tensors([name]) == kind
    save_file({name: torch.zeros(1)}, tmp_path / "file.safetensors")
    with pytest.raises(ValueError, match="--pretrained_model_name_or_path.*" + kind.replace("(", r"\(").replace(")", r"\)")):
        SD().load(str(tmp_path / "file.safetensors"))


def write(tmp_path, name: str, content: bytes) -> str:
    (tmp_path / name).write_bytes(content)
    return str(tmp_path / name)


@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>log in</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git-lfs"),
        (b"\x10\x20\x30" * 100, "damaged or cut off"),
    ],
)
def test_a_file_that_is_no_model_says_what_it_is(tmp_path, ending, content, reason):
    path = write(tmp_path, f"model.{ending}", content)
    with pytest.raises(ValueError, match=f"(?s)model.{ending}.*{reason}"):
        open_checkpoint(path)


@pytest.mark.parametrize("share", [0.2, 0.9])
@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_a_file_cut_off_in_downloading_is_reported(layouts, tmp_path, ending, share):
    whole = tmp_path / f"whole.{ending}"
    tensors = {"a": torch.randn(1000), "b": torch.randn(1000)}
    save_file(tensors, whole) if ending == "safetensors" else torch.save(tensors, whole)
    content = whole.read_bytes()
    with pytest.raises(ValueError, match="damaged or cut off"):
        open_checkpoint(write(tmp_path, f"part.{ending}", content[: int(len(content) * share)]))


def test_a_pickle_called_safetensors_is_recognised(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="wrong ending"):
        open_checkpoint(str(tmp_path / "model.safetensors"))


class Code:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_with_code_is_not_opened(tmp_path, capsys):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "evil": Code()}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="could run code.*Convert it to .safetensors"):
        open_checkpoint(str(tmp_path / "model.ckpt"))
    assert "code ran" not in capsys.readouterr().out


def test_a_plain_pickle_with_code_is_not_opened_either(tmp_path):
    with pytest.raises(ValueError, match="model.ckpt"):
        open_checkpoint(write(tmp_path, "model.ckpt", pickle.dumps(Code(), protocol=2)))


def test_numbers_and_names_that_old_trainers_left_do_no_harm(tmp_path):
    leftovers = {"best": np.float64(0.5), "epoch": np.int64(3), "step": np.float32(1)}
    torch.save({"state_dict": {"a": torch.zeros(2)}} | leftovers, tmp_path / "model.ckpt")
    assert open_checkpoint(str(tmp_path / "model.ckpt")).shapes == {"a": (2,)}


def test_a_file_that_lacks_tensors_lists_them(layouts, tmp_path):
    tensors = load_file(layouts("sd1").single_file)
    del tensors["model.diffusion_model.middle_block.1.proj_in.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="middle_block.1.proj_in.weight is missing"):
        SD().load(str(tmp_path / "model.safetensors"))


def test_a_unet_with_unknown_tensors_lists_them(layouts, tmp_path):
    tensors = load_file(layouts("sd1").single_file) | {"model.diffusion_model.extra.weight": torch.zeros(1)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="no place for, such as extra.weight"):
        SD().load(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("path", ["/no/such/model.safetensors", "missing.ckpt", "./no/such/folder"])
def test_a_path_that_does_not_exist_never_asks_the_network(path):
    with pytest.raises(ValueError, match="no such file or folder"):
        SD().load(path)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no diffusers model"):
        SD().load(str(tmp_path))


def test_a_folder_with_a_part_missing_names_the_part(layouts, tmp_path):
    folder = shutil.copytree(layouts("sd1").folder, tmp_path / "model")
    (folder / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="cannot load text_encoder"):
        SD().load(str(folder))
