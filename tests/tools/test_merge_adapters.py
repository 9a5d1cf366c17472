"""Adapters merged with each other: as sd-scripts does it, exactly, and by singular values."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from library.saving.header import read_metadata
from networks.files.adapter_file import open_adapter
from networks.files.algebra import delta
from networks.files.combine import clamped

NAMES = ("lora_te_text_model_encoder_layers_0_mlp_fc1", "lora_unet_mid_block_resnets_0_conv1", "lora_unet_mid_block_attentions_0_proj_in")


def lora(rank: int, alpha: float, seed: int, names=NAMES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in names:
        kernel = {"conv1": (3, 3), "oj_in": (1, 1)}.get(name[-5:], ())
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, 10, *kernel, generator=generator)
        tensors[f"{name}.lora_up.weight"] = torch.randn(12, rank, *[1 for _ in kernel], generator=generator)
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def loha(rank: int, seed: int, name=NAMES[0]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"hada_w1_a": (12, rank), "hada_w1_b": (rank, 10), "hada_w2_a": (12, rank), "hada_w2_b": (rank, 10)}
    return {f"{name}.{part}": torch.randn(shape, generator=generator) for part, shape in shapes.items()} | {
        f"{name}.alpha": torch.tensor(1.0)
    }


def changes(path) -> dict[str, torch.Tensor]:
    """Module -> what it adds to its layer."""
    file = open_adapter(path)
    return {module: delta(module, file.read(module)) for module in file.modules}


@pytest.fixture
def files(tmp_path):
    """a: rank 4, alpha 4; b: rank 4, alpha 1; c: rank 2, alpha 1; h: a LoHa of rank 2."""
    contents = {"a": lora(4, 4.0, 1), "b": lora(4, 1.0, 2), "c": lora(2, 1.0, 3), "h": loha(2, 4)}
    for name, tensors in contents.items():
        told = {"ss_v2": "True", "ss_base_model_version": "sd_v2", "modelspec.title": f"title {name}"}
        save_file(tensors, tmp_path / f"{name}.safetensors", told if name == "b" else None)
    return {name: tmp_path / f"{name}.safetensors" for name in contents}


@pytest.mark.parametrize("names", ["a", "ab", "abc", "ah"])
def test_an_exact_merge_adds_the_sum_of_what_its_sources_add(names, files, run_tool, tmp_path):
    ratios = [0.5, -0.75, 2.0][: len(names)]
    out = tmp_path / "out.safetensors"
    run_tool("networks.merge_lora", "--models", *(files[name] for name in names), "--ratios", *ratios, "--exact", "--save_to", out)
    total: dict = {}
    for name, ratio in zip(names, ratios):
        for module, change in changes(files[name]).items():
            total[module] = ratio * change + total.get(module, 0)
    torch.testing.assert_close(changes(out), total, rtol=1e-4, atol=1e-4)


def test_without_exact_ratios_count_squared_as_in_the_reference(files, run_tool, tmp_path):
    run_tool("networks.merge_lora", "--models", files["a"], "--ratios", 0.5, "--save_to", tmp_path / "out.safetensors")
    before, after = changes(files["a"]), changes(tmp_path / "out.safetensors")
    torch.testing.assert_close(after, {module: 0.25 * change for module, change in before.items()})


def test_factors_are_summed_with_the_first_files_alpha(files, run_tool, tmp_path):
    out = tmp_path / "out.safetensors"
    run_tool("networks.merge_lora", "--models", files["a"], files["b"], "--ratios", 0.5, -2, "--save_to", out)
    a, b, merged = load_file(files["a"]), load_file(files["b"]), load_file(out)
    key, factor = f"{NAMES[0]}.lora_down.weight", (1 / 4) ** 0.5 * 2
    torch.testing.assert_close(merged[key], 0.5 * a[key] - factor * b[key])
    key = f"{NAMES[0]}.lora_up.weight"
    torch.testing.assert_close(merged[key], 0.5 * a[key] + factor * b[key])
    assert float(merged[f"{NAMES[0]}.alpha"]) == 4


def test_concat_puts_the_files_ranks_side_by_side(files, run_tool, tmp_path):
    out = tmp_path / "out.safetensors"
    run_tool("networks.merge_lora", "--models", files["a"], files["c"], "--ratios", 1, 1, "--concat", "--shuffle", "--save_to", out)
    assert load_file(out)[f"{NAMES[0]}.lora_down.weight"].shape == (6, 10)


def test_metadata_say_what_the_file_is_and_what_went_into_it(files, run_tool, tmp_path):
    out = tmp_path / "out.safetensors"
    run_tool("networks.merge_lora", "--models", files["a"], files["b"], "--ratios", 1, 1, "--save_to", out)
    metadata = read_metadata(out)
    wanted = {
        "ss_network_module": "networks.lora", "ss_network_dim": "4", "ss_network_alpha": "4.0", "ss_v2": "True",
        "ss_base_model_version": "sd_v2", "modelspec.title": "out", "modelspec.merged_from": "a, title b",
    }  # fmt: skip
    assert {key: metadata[key] for key in wanted} == wanted
    assert len(metadata["sshs_model_hash"]) == 64


def test_an_exact_merge_removes_blocks_of_weight_zero(files, run_tool, tmp_path):
    out = tmp_path / "out.safetensors"
    weights = ",".join("0" if slot == 13 else "1" for slot in range(26))
    run_tool("networks.merge_lora", "--models", files["a"], "--ratios", 1, "--lbws", weights, "--exact", "--save_to", out)
    assert set(changes(out)) == {NAMES[0]}


def test_text_encoders_can_have_ratios_of_their_own(files, run_tool, tmp_path):
    out = tmp_path / "out.safetensors"
    run_tool("networks.merge_lora", "--models", files["a"], "--ratios", 1, "--te_ratios", 0.5, "--exact", "--save_to", out)
    before, after = changes(files["a"]), changes(out)
    torch.testing.assert_close(after[NAMES[0]], 0.5 * before[NAMES[0]])
    torch.testing.assert_close(after[NAMES[1]], before[NAMES[1]])


@pytest.mark.parametrize(("names", "message"), [("ac", "--concat"), ("ah", "svd_merge_lora.py")])
def test_what_cannot_be_added_is_refused_with_a_way_out(names, message, files, run_tool, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_tool("networks.merge_lora", "--models", *(files[name] for name in names), "--ratios", 1, 1, "--save_to", tmp_path / "o.pt")
    assert message in capsys.readouterr().err


def test_an_svd_merge_of_enough_rank_is_exact(files, run_tool, tmp_path):
    out = tmp_path / "out.safetensors"
    argv = ["--models", files["a"], files["b"], files["h"], "--ratios", 0.5, 1, 2, "--new_rank", 12, "--save_to", out, "--exact"]
    run_tool("networks.svd_merge_lora", *argv)
    a, b, h, merged = (changes(path) for path in (files["a"], files["b"], files["h"], out))
    torch.testing.assert_close(merged[NAMES[0]], 0.5 * a[NAMES[0]] + b[NAMES[0]] + 2 * h[NAMES[0]], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(merged[NAMES[1]], 0.5 * a[NAMES[1]] + b[NAMES[1]], rtol=1e-4, atol=1e-3)


def test_an_svd_merge_keeps_the_largest_singular_values(files, run_tool, tmp_path):
    out = tmp_path / "out.safetensors"
    argv = ["--new_rank", 3, "--new_conv_rank", 2, "--save_to", out, "--exact"]
    run_tool("networks.svd_merge_lora", "--models", files["a"], "--ratios", 1, *argv)
    whole, kept = changes(files["a"])[NAMES[0]], changes(out)[NAMES[0]]
    u, s, vh = torch.linalg.svd(whole)
    torch.testing.assert_close(kept, (u[:, :3] * s[:3]) @ vh[:3], rtol=1e-4, atol=1e-4)
    assert load_file(out)[f"{NAMES[1]}.lora_down.weight"].shape == (2, 10, 3, 3)
    assert json.loads(read_metadata(out)["ss_network_args"]) == {"conv_dim": 2, "conv_alpha": 2}


def test_an_svd_merge_clamps_its_factors_unless_exact(files, run_tool, tmp_path):
    errors = []
    for switch in ([], ["--exact"]):
        out = tmp_path / "out.safetensors"
        run_tool("networks.svd_merge_lora", "--models", files["a"], "--ratios", 1, "--new_rank", 4, "--save_to", out, *switch)
        errors.append(float((changes(out)[NAMES[0]] - changes(files["a"])[NAMES[0]]).norm()))
    assert errors[0] > 1e-2 and errors[1] < 1e-3


def test_factors_are_clamped_to_a_quantile_of_both():
    down, up = torch.arange(10.0).view(2, 5), -torch.arange(10.0).view(5, 2)
    limit = torch.cat([up.flatten(), down.flatten()]).quantile(0.8)
    found = clamped(down, up, 0.8)
    torch.testing.assert_close(found, (down.clamp(-limit, limit), up.clamp(-limit, limit)))
