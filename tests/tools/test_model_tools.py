"""Tools for whole models: mixing, converting, metadata."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from tests.tools.conftest import FAMILIES, outputs

SWITCHES = {"sd1": ["--v1"], "sd2": ["--v2"], "sdxl": []}


def test_models_are_mixed_by_their_ratios(layouts, run_tool, tmp_path):
    base = layouts("sd1").single_file
    tensors = load_file(base)
    other = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    save_file(other, tmp_path / "other.safetensors")
    out = tmp_path / "mix.safetensors"
    argv = ["--models", base, tmp_path / "other.safetensors", "--ratios", 0.75, 0.25, "--output", out]
    run_tool("tools.merge_models", *argv)
    mixed = load_file(out)
    assert all(torch.allclose(mixed[name], tensors[name].float() + 0.25) for name in tensors if tensors[name].is_floating_point())
    run_tool("tools.merge_models", *argv, "--unet_only", "--saving_precision", "fp16")
    mixed = load_file(out)
    changed = {name.partition(".")[0] for name in tensors if not torch.allclose(mixed[name].float(), tensors[name].float(), atol=1e-2)}
    assert changed == {"model"} and mixed["model.diffusion_model.out.2.weight"].dtype == torch.float16


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_a_file_becomes_a_folder_and_a_file_again(kind, layouts, run_tool, tmp_path, base):
    file = layouts(kind).single_file
    folder, again = tmp_path / "folder", tmp_path / "again.safetensors"
    run_tool("tools.convert_diffusers20_original_sd", "--use_safetensors", "--unet_use_linear_projection", file, folder)
    run_tool("tools.convert_diffusers20_original_sd", *SWITCHES[kind], folder, again, "--metadata", '{"title": "mine"}')
    config = json.loads((folder / "unet" / "config.json").read_text())
    assert config["use_linear_projection"] == (kind != "sd1")
    family = FAMILIES[kind]
    torch.testing.assert_close(outputs(family, family.load(str(again))), outputs(family, base(kind)), rtol=1e-5, atol=1e-5)


def test_a_model_of_the_hub_is_fetched_and_converted(layouts, run_tool, tmp_path, monkeypatch):
    asked = []

    def fetched(model, *, variant, **_):
        asked.append((model, variant))
        return layouts("sd1").folder

    monkeypatch.setattr(DiffusionPipeline, "download", fetched)
    out = tmp_path / "out.safetensors"
    run_tool("tools.convert_diffusers20_original_sd", "someone/model", out, "--variant", "fp16")
    assert asked == [("someone/model", "fp16")]
    wanted = load_file(layouts("sd1").single_file)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in load_file(out).items() if name in wanted)


def test_a_model_that_is_nowhere_is_told(run_tool, tmp_path, monkeypatch, capsys):
    def missing(*given, **wanted):
        raise OSError("no such repository")

    monkeypatch.setattr(DiffusionPipeline, "download", missing)
    with pytest.raises(SystemExit):
        run_tool("tools.convert_diffusers20_original_sd", "someone/model", tmp_path / "out.safetensors")
    assert "someone/model: no such file or folder, and no model of that id on the hub" in capsys.readouterr().err


def test_another_kind_than_asked_for_is_refused(layouts, run_tool, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_tool("tools.convert_diffusers20_original_sd", "--v2", layouts("sd1").single_file, tmp_path / "out.safetensors")
    assert "is an SD1 model: leave out --v2" in capsys.readouterr().err


def test_metadata_are_printed_as_json(run_tool, tmp_path, capsys):
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", {"ss_steps": "7", "ss_tag_frequency": '{"dir": {"ä": 1}}'})
    run_tool("tools.show_metadata", "--model", tmp_path / "a.safetensors")
    assert json.loads(capsys.readouterr().out) == {"ss_steps": "7", "ss_tag_frequency": {"dir": {"ä": 1}}}
