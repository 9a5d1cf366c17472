"""Smaller ranks, differences of models, and cut DyLoRAs."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from library.models.streams import open_stream
from library.saving.hashes import network_hashes
from library.saving.header import read_metadata
from networks.files.resize import chosen_rank
from tests.tools.test_merge_adapters import NAMES, changes, loha, lora

VALUES = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.25])


@pytest.mark.parametrize(("method", "param", "rank"), [("sv_ratio", 4, 3), ("sv_cumulative", 0.9, 5), ("sv_fro", 0.9, 3), (None, None, 4)])
def test_ranks_are_chosen_as_in_the_reference(method, param, rank):
    assert chosen_rank(VALUES, 6, 6 if method else 4, method, param) == rank


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_resizing_keeps_the_promised_share_of_the_frobenius_norm(share, run_tool, tmp_path):
    save_file(lora(8, 4.0, 1), tmp_path / "a.safetensors")
    argv = ["--new_rank", 8, "--dynamic_method", "sv_fro", "--dynamic_param", share, "--save_to", tmp_path / "out.safetensors"]
    run_tool("networks.resize_lora", "--model", tmp_path / "a.safetensors", *argv)
    before, after = changes(tmp_path / "a.safetensors"), changes(tmp_path / "out.safetensors")
    assert all(after[name].norm() >= share * before[name].norm() for name in NAMES)
    assert any(after[name].norm() < before[name].norm() * 0.999 for name in NAMES)


def test_a_resized_lora_is_the_best_one_of_its_rank_and_keeps_its_scale(run_tool, tmp_path):
    save_file(lora(8, 4.0, 1), tmp_path / "a.safetensors")
    argv = ["--model", tmp_path / "a.safetensors", "--new_rank", 3, "--save_to", tmp_path / "out.safetensors", "--svd_lowrank_niter", 2]
    run_tool("networks.resize_lora", *argv)
    u, s, vh = torch.linalg.svd(changes(tmp_path / "a.safetensors")[NAMES[0]])
    torch.testing.assert_close(changes(tmp_path / "out.safetensors")[NAMES[0]], (u[:, :3] * s[:3]) @ vh[:3], rtol=1e-4, atol=1e-4)
    out = load_file(tmp_path / "out.safetensors")
    assert float(out[f"{NAMES[0]}.alpha"]) == 1.5  # 4 / 8 * 3


def test_a_loha_becomes_a_lora(run_tool, tmp_path):
    save_file(loha(4, 1), tmp_path / "h.safetensors", {"ss_network_module": "networks.loha"})
    out = tmp_path / "out.safetensors"
    run_tool("networks.resize_lora", "--model", tmp_path / "h.safetensors", "--new_rank", 10, "--save_to", out)
    torch.testing.assert_close(changes(out)[NAMES[0]], changes(tmp_path / "h.safetensors")[NAMES[0]], rtol=1e-4, atol=1e-4)
    assert read_metadata(out)["ss_network_module"] == "networks.lora"


def test_resized_metadata_tell_the_old_and_the_new_rank(run_tool, tmp_path):
    save_file(lora(8, 4.0, 1), tmp_path / "a.safetensors", {"ss_training_comment": "mine"})
    out = tmp_path / "out.safetensors"
    argv = ["--model", tmp_path / "a.safetensors", "--new_rank", 3, "--new_conv_rank", 2, "--save_to", out, "--save_precision", "fp16"]
    run_tool("networks.resize_lora", *argv)
    metadata = read_metadata(out)
    assert metadata["ss_training_comment"] == "dimension is resized from 8 to 3 (conv: 2); mine"
    assert (metadata["ss_network_dim"], metadata["sshs_model_hash"]) == ("3", network_hashes(load_file(out), {})[0])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--dynamic_method", "sv_fro"], "needs --dynamic_param"),
        (["--dynamic_method", "sv_fro", "--dynamic_param", "2"], "keeps a share"),
        (["--dynamic_method", "sv_ratio", "--dynamic_param", "1"], "must be 2 or more"),
        (["--new_rank", "0"], "must be 1 or more"),
    ],
)
def test_impossible_ranks_are_refused(argv, message, run_tool, tmp_path, capsys):
    save_file(lora(8, 4.0, 1), tmp_path / "a.safetensors")
    with pytest.raises(SystemExit):
        run_tool("networks.resize_lora", "--model", tmp_path / "a.safetensors", "--save_to", tmp_path / "o.safetensors", *argv)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_extracting_a_known_low_rank_difference_returns_it(kind, layouts, adapters, run_tool, tmp_path):
    path, _ = adapters(kind)
    base, tuned, out = layouts(kind).single_file, tmp_path / "tuned.safetensors", tmp_path / "out.safetensors"
    program = "networks.sdxl_merge_lora" if kind == "sdxl" else "networks.merge_lora"
    run_tool(program, "--sd_model", base, "--models", path, "--ratios", 1, "--save_to", tuned)
    argv = ["--model_org", base, "--model_tuned", tuned, "--dim", 3, "--conv_dim", 2, "--clamp_quantile", 1, "--save_to", out]
    run_tool("networks.extract_lora_from_models", *argv)
    torch.testing.assert_close(changes(out), changes(path), rtol=1e-3, atol=2e-4)
    assert read_metadata(out)["ss_base_model_version"] == {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}[kind]


def test_text_encoders_that_hardly_differ_are_left_out(layouts, run_tool, tmp_path):
    base = layouts("sd1").single_file
    tensors = {name: tensor.read() for name, tensor in open_stream(base).tensors.items()}
    for name in tensors:
        if name.endswith("to_q.weight"):
            tensors[name] = tensors[name] + 0.1
    save_file(tensors, tmp_path / "tuned.safetensors")
    out = tmp_path / "out.safetensors"
    run_tool("networks.extract_lora_from_models", "--model_org", base, "--model_tuned", tmp_path / "tuned.safetensors", "--save_to", out)
    assert {name.split("_")[1] for name in changes(out)} == {"unet"}


def test_a_dylora_is_cut_to_every_smaller_rank(run_tool, tmp_path):
    whole = lora(6, 3.0, 1)
    save_file(whole, tmp_path / "dy.safetensors", {"ss_network_dim": "6", "ss_training_comment": "mine"})
    run_tool(
        "networks.extract_lora_from_dylora", "--model", tmp_path / "dy.safetensors", "--unit", 2, "--save_to", tmp_path / "cut.safetensors"
    )
    cuts = sorted(path.name for path in tmp_path.glob("cut-*"))
    assert cuts == ["cut-0002.safetensors", "cut-0004.safetensors"]
    cut, key = load_file(tmp_path / cuts[1]), f"{NAMES[0]}.lora_up.weight"
    assert torch.equal(cut[key], whole[key][:, :4]) and float(cut[f"{NAMES[0]}.alpha"]) == 3
    metadata = read_metadata(tmp_path / cuts[1])
    assert metadata["ss_training_comment"] == "split from DyLoRA, rank 6 to 4; mine"
    assert (metadata["ss_network_dim"], metadata["sshs_model_hash"]) == ("4", network_hashes(cut, {})[0])


def test_weights_are_listed(run_tool, tmp_path, capsys):
    save_file(lora(2, 1.0, 1) | loha(2, 3, NAMES[0] + "x"), tmp_path / "a.safetensors")
    run_tool("networks.check_lora_weights", tmp_path / "a.safetensors", "-s")
    printed = capsys.readouterr().out
    values = load_file(tmp_path / "a.safetensors")[f"{NAMES[1]}.lora_down.weight"].abs()
    assert f"{NAMES[1]}.lora_down.weight,(2-10-3-3),{values.mean()},{values.min()}" in printed
    assert "number of LoRA modules: 4, of their tensors: 10" in printed


def test_the_interrogator_names_changed_words(layouts, adapters, run_tool, capsys, monkeypatch):
    monkeypatch.setattr("networks.files.interrogate.words_known", lambda *_: 300)
    path, _ = adapters("sd1")
    run_tool("networks.lora_interrogator", "--sd_model", layouts("sd1").single_file, "--model", path, "--batch_size", 64)
    lines = capsys.readouterr().out.splitlines()
    changed = [float(line.split()[0]) for line in lines]
    assert len(lines) == 100 and changed == sorted(changed, reverse=True) and changed[0] > 0
