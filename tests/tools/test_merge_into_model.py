"""Adapters merged into a model: the merged model answers as the model with the adapters attached."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from library.models.original_layout import open_model
from library.models.streams import open_stream
from library.saving.header import read_metadata
from networks.files.adapter_file import open_adapter
from networks.files.merge import merged_model
from networks.files.places import kind_of_model, places
from tests.tools.conftest import FAMILIES, attach, detach, outputs

SPARE = re.compile(r"logit_scale|position_ids|alphas_cumprod|cond_stage_model.model.(transformer.resblocks.4|text_projection)")
"""What single files have besides the models: left by training programs, or needed by loaders only."""
PROGRAMS = {"sd1": "networks.merge_lora", "sd2": "networks.merge_lora", "sdxl": "networks.sdxl_merge_lora"}


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_the_merged_model_answers_like_model_and_adapter(kind, layouts, base, adapters, run_tool, tmp_path):
    path, network = adapters(kind)
    family, models = FAMILIES[kind], base(kind)
    plain = outputs(family, models)
    attach(network)
    attached = outputs(family, models)
    detach(network)
    out = tmp_path / "merged.safetensors"
    run_tool(PROGRAMS[kind], "--sd_model", layouts(kind).single_file, "--models", path, "--ratios", 1.0, "--save_to", out)
    merged = outputs(family, family.load(str(out)))
    assert (attached - plain).abs().max() > 1e-2  # the adapter does something
    torch.testing.assert_close(merged, attached, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "network"), [("sd2", "lora"), ("sdxl", "loha"), ("sdxl", "lokr"), ("sd1", "oft")], ids="-".join)
def test_every_kind_of_adapter_changes_every_layer_by_its_weight_change(kind, network, layouts, adapters):
    path, built = adapters(kind, network)
    model, file = open_stream(layouts(kind).single_file), open_adapter(path)
    merged = merged_model(model, [(file, lambda module: 0.5)], work_dtype=torch.float32, save_dtype=torch.float32)
    found = places(model.tensors, kind_of_model(model.tensors, ""))
    for module in built.adapters:
        place = found[module.lora_name]
        weight = merged[place.key].read()
        weight = weight if place.third is None else weight.chunk(3)[place.third]
        layer = module.org_module.weight
        torch.testing.assert_close(weight.reshape(layer.shape), layer + 0.5 * module.delta_weight(), rtol=1e-4, atol=1e-5)


def test_a_diffusers_folder_is_the_same_single_file(layouts):
    for kind in ("sd1", "sd2", "sdxl"):
        file, folder = open_model(str(layouts(kind).single_file)).tensors, open_model(str(layouts(kind).folder)).tensors
        ours = {key for key in folder if not SPARE.search(key)}
        assert {key for key in file if not SPARE.search(key)} == ours
        assert all(torch.equal(file[key].read(), folder[key].read()) for key in ours)


def test_dora_is_merged_as_it_was_trained(layouts, base, adapters, run_tool, tmp_path):
    path, _ = adapters("sd1")
    weights = load_file(path)
    layer = base("sd1").unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    magnitude = torch.rand(layer.out_features, 1) + 0.5
    save_file(weights | {f"{name}.dora_scale": magnitude}, tmp_path / "dora.safetensors")
    out = tmp_path / "out.safetensors"
    argv = ["--sd_model", layouts("sd1").single_file, "--models", tmp_path / "dora.safetensors", "--ratios", 0.5, "--save_to", out]
    run_tool("networks.merge_lora", *argv)
    turned = layer.weight + weights[f"{name}.alpha"] / 3 * weights[f"{name}.lora_up.weight"] @ weights[f"{name}.lora_down.weight"]
    turned = turned / turned.norm(dim=1, keepdim=True) * magnitude
    found = load_file(out)["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"]
    torch.testing.assert_close(found, (layer.weight + turned) / 2)


def test_block_weights_and_text_encoder_ratios_choose_what_is_merged(layouts, adapters, run_tool, tmp_path):
    path, _ = adapters("sd1")
    out = tmp_path / "out.safetensors"
    only_mid = ["0"] * 26
    only_mid[13] = "1"
    argv = ["--sd_model", layouts("sd1").single_file, "--models", path, "--ratios", 1.0, "--te_ratios", 0, "--save_to", out]
    run_tool("networks.merge_lora", *argv, "--lbws", ",".join(only_mid))
    before, after = load_file(layouts("sd1").single_file), load_file(out)
    changed = {key.split(".")[2] for key in before if not torch.equal(before[key].float(), after[key].float())}
    assert changed == {"middle_block"}


def test_the_saved_format_and_the_metadata_are_as_asked(layouts, adapters, run_tool, tmp_path):
    path, _ = adapters("sd1")
    out = tmp_path / "half.safetensors"
    argv = ["--sd_model", layouts("sd1").single_file, "--models", path, "--ratios", 1, "--save_to", out, "--save_precision", "fp16"]
    run_tool("networks.merge_lora", *argv)
    assert {tensor.dtype for tensor in load_file(out).values() if tensor.is_floating_point()} == {torch.float16}
    metadata = read_metadata(out)
    assert (metadata["modelspec.architecture"], metadata["modelspec.title"]) == ("stable-diffusion-v1", "half")
    assert metadata["modelspec.merged_from"] == f"single, {path.stem}"


def test_an_adapter_of_another_family_is_refused(layouts, adapters, run_tool, tmp_path, capsys):
    path, _ = adapters("sdxl")
    argv = ["--sd_model", layouts("sd1").single_file, "--models", path, "--ratios", 1, "--save_to", tmp_path / "out.safetensors"]
    with pytest.raises(SystemExit):
        run_tool("networks.merge_lora", *argv)
    assert "made for another model family" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--models", "a", "--save_to", "o.safetensors"], "--ratios is missing"),
        (["--models", "a", "b", "--ratios", "1", "--save_to", "o.safetensors"], "--ratios has 1 values for 2 --models"),
        (["--models", "a", "--ratios", "1", "--save_to", "o.safetensors"], "no such file: a"),
        (["--models", "a", "--ratios", "1"], "--save_to is missing"),
        (["--models", "a", "--ratios", "1", "--lbws", "1,2", "--save_to", "o.safetensors"], "--lbws has 2 values"),
    ],
)
def test_mistakes_are_named(argv, message, run_tool, capsys):
    with pytest.raises(SystemExit) as end:
        run_tool("networks.merge_lora", *argv)
    assert end.value.code == 1 and message in capsys.readouterr().err


def test_tools_for_files_start_without_the_model_libraries():
    program = "import sys, networks.files.tasks, networks.files.doctor; print(sorted({'diffusers', 'transformers'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2])
    assert found.stdout == "[]\n", found.stderr
