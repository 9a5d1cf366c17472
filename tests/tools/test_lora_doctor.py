"""tools/lora_doctor.py: the report, the mended copy, and names of other programs."""

import importlib.util

import pytest
import torch
from safetensors.torch import load_file, save_file

from library.saving.header import read_metadata
from networks.files.names import comfyui_layer, diffusers_layer, kohya_module, split_key
from networks.targets import text_encoder_targets, unet_targets
from tests.tools.test_merge_adapters import NAMES, changes, loha, lora


@pytest.fixture
def patient(tmp_path):
    """A file with one module each that is well, has NaN, or adds nothing; with a foreign tensor and private metadata."""
    tensors = lora(4, 2.0, 1)
    tensors[f"{NAMES[1]}.lora_up.weight"][0, 0] = float("nan")
    tensors[f"{NAMES[2]}.lora_up.weight"].zero_()
    tensors[f"{NAMES[2]}.lora_down.weight"] = tensors[f"{NAMES[2]}.lora_down.weight"].half()
    del tensors[f"{NAMES[0]}.alpha"]
    path = tmp_path / "patient.safetensors"
    save_file(tensors | {"optimizer.state": torch.ones(3)}, path, {"ss_dataset_dirs": "{}", "ss_network_dim": "4"})
    return path


def test_the_report_says_what_is_wrong(patient, run_tool, capsys):
    run_tool("tools.lora_doctor", patient)
    report = capsys.readouterr().out
    for said in (
        "LoRA (3x)", "ranks: 4 (3x)", "BASE", f"1 modules hold NaN or infinity: images made with them are black or noise: {NAMES[1]}",
        f"1 modules add nothing: they were not trained, or their weight was 0: {NAMES[2]}", "optimizer.state", "float32 5x, float16 1x",
        "1 modules have no alpha", "ss_dataset_dirs", "diffusers refuses it because of unknown tensors",
    ):  # fmt: skip
        assert said in report


def test_the_fixed_copy_has_nothing_wrong_and_adds_the_same(patient, run_tool, tmp_path, capsys):
    run_tool("tools.lora_doctor", patient, "--fix")
    fixed = tmp_path / "patient-fixed.safetensors"
    capsys.readouterr()
    run_tool("tools.lora_doctor", fixed)
    assert "what is wrong: nothing" in capsys.readouterr().out
    torch.testing.assert_close(changes(fixed), {NAMES[0]: changes(patient)[NAMES[0]]})
    assert set(read_metadata(fixed)) == {"ss_network_dim", "sshs_model_hash", "sshs_legacy_hash"}


@pytest.mark.parametrize("naming", ["diffusers", "comfyui"])
def test_names_are_changed_and_changed_back(naming, run_tool, tmp_path):
    tensors = lora(4, 2.0, 1) | lora(2, 2.0, 3, ["lora_unet_up_blocks_1_attentions_0_proj_in"])
    save_file(tensors, tmp_path / "a.safetensors")
    run_tool("tools.lora_doctor", tmp_path / "a.safetensors", "--convert", naming)
    there = tmp_path / f"a-{naming}.safetensors"
    assert not any(key.startswith("lora_") for key in load_file(there))
    run_tool("tools.lora_doctor", there, "--convert", "kohya", "--save_to", tmp_path / "back.safetensors")
    torch.testing.assert_close(changes(tmp_path / "back.safetensors"), changes(tmp_path / "a.safetensors"))


def test_magnitudes_survive_the_way_to_peft_and_back(run_tool, tmp_path):
    scales = {f"{NAMES[0]}.dora_scale": torch.rand(12, 1), f"{NAMES[1]}.dora_scale": torch.rand(12, 1, 1, 1)}
    save_file(lora(4, 2.0, 1, NAMES[:2]) | scales, tmp_path / "a.safetensors")
    run_tool("tools.lora_doctor", tmp_path / "a.safetensors", "--convert", "diffusers")
    run_tool("tools.lora_doctor", tmp_path / "a-diffusers.safetensors", "--convert", "kohya", "--save_to", tmp_path / "b.safetensors")
    back = load_file(tmp_path / "b.safetensors")
    assert all(torch.equal(back[key], scale) for key, scale in scales.items())


def test_what_diffusers_cannot_read_is_refused(run_tool, tmp_path, capsys):
    save_file(loha(2, 1), tmp_path / "h.safetensors")
    with pytest.raises(SystemExit):
        run_tool("tools.lora_doctor", tmp_path / "h.safetensors", "--convert", "diffusers")
    assert "make one with resize_lora.py" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_every_layer_of_a_model_has_its_names(kind, base):
    models = base(kind)
    encoders = models.text_encoders if kind == "sdxl" else models.text_encoders[0]
    for target in [*unet_targets(models.unet, with_conv=True), *text_encoder_targets(encoders)]:
        if target.name.startswith("lora_unet_"):
            path = target.diffusers_name.removeprefix("lora_unet_")
            assert diffusers_layer(target.name).removeprefix("unet.").replace(".", "_") == path
            assert dict(models.unet.named_modules()).get(diffusers_layer(target.name).removeprefix("unet.")) is target.layer
        for name_of in (diffusers_layer, comfyui_layer):
            assert kohya_module(name_of(target.name), sdxl=kind == "sdxl") == target.name


@pytest.mark.parametrize(
    ("key", "layer", "part"),
    [
        ("unet.mid_block.attentions.0.proj_in.lora_A.weight", "unet.mid_block.attentions.0.proj_in", "lora_down.weight"),
        ("base_model.model.down_blocks.0.x.lora_B.default.weight", "down_blocks.0.x", "lora_up.weight"),
        ("unet.a.attn1.processor.to_q_lora.up.weight", "unet.a.attn1.processor.to_q", "lora_up.weight"),
        ("text_encoder.a.q_proj.lora_linear_layer.down.weight", "text_encoder.a.q_proj", "lora_down.weight"),
        ("unet.a.lora_magnitude_vector.default.weight", "unet.a", "dora_scale"),
        ("lora_unet_a.lokr_w2_a", "lora_unet_a", "lokr_w2_a"),
        ("lora_unet_a.alpha", "lora_unet_a", "alpha"),
    ],
)
def test_keys_of_all_programs_are_understood(key, layer, part):
    assert split_key(key) == (layer, part)


@pytest.mark.parametrize("key", ["bundle_emb.word.string_to_param", "model.diffusion_model.out.2.weight", "epoch"])
def test_other_tensors_are_left_alone(key):
    assert split_key(key) is None


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
def test_diffusers_answers_the_same_with_the_converted_file(base, adapters, run_tool, tmp_path):
    path, built = adapters("sd1")
    run_tool("tools.lora_doctor", path, "--convert", "diffusers", "--save_to", tmp_path / "d.safetensors")
    import copy

    unet = copy.deepcopy(base("sd1").unet)
    unet.load_lora_adapter(load_file(tmp_path / "d.safetensors"), prefix="unet")
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    module = next(module for module in built.adapters if module.target.path == name)
    x = torch.randn(2, module.org_module.in_features)
    wanted = torch.nn.functional.linear(x, module.org_module.weight + module.delta_weight(), module.org_module.bias)
    torch.testing.assert_close(unet.get_submodule(name)(x), wanted, rtol=1e-4, atol=1e-4)
