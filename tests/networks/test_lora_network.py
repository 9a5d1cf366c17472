import base64
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from library.saving.header import read_metadata
from library.saving.weights import load_tensors, save_tensors
from networks.lora import create_network, create_network_from_weights

RECORDED = json.loads((Path(__file__).parent / "data" / "initial_weights.json").read_text())
RUNS = {"a_plain": ("sd1", {}), "c_conv": ("sd1", {"conv_dim": "2", "conv_alpha": "1"}), "r_plain": ("sdxl", {})}


def make(models, kind="sd1", dim=4, alpha=2.0, apply=True, **kwargs):
    text_encoder, unet = models(kind)
    network = create_network(1.0, dim, alpha, None, text_encoder, unet, **kwargs)
    if apply:
        network.apply_to(text_encoder, unet, True, True)
    return network


def filled(network):
    """The network with random up weights, so that it does something."""
    for module in network.adapters:
        torch.nn.init.normal_(module.lora_up.weight, std=0.05)
    return network


@pytest.fixture
def saved(tiny_models, tmp_path):
    """A file of an SD1 network of rank 4, alpha 2."""
    filled(make(tiny_models)).save_weights(tmp_path / "lora.safetensors", None, {})
    return tmp_path / "lora.safetensors"


@pytest.mark.parametrize("run", RUNS)
def test_initial_weights_are_those_of_the_reference(tiny_models, run):
    kind, arguments = RUNS[run]
    text_encoder, unet = tiny_models(kind)
    state = zlib.decompress(base64.b64decode(RECORDED[run]["rng_before"]))
    torch.set_rng_state(torch.from_numpy(np.frombuffer(state, np.uint8).copy()))
    network = create_network(1.0, 4, 2.0, None, text_encoder, unet, **arguments)
    first = {module.lora_name: module.lora_down.weight.flatten()[0].item() for module in network.adapters}
    assert first == pytest.approx(RECORDED[run]["first_values"], abs=1e-6)
    assert not any(module.lora_up.weight.any() for module in network.adapters)


def test_another_network_in_the_process_does_not_change_the_targets(tiny_models):
    make(tiny_models, conv_dim="2", apply=False)
    assert len(make(tiny_models, apply=False).unet_loras) == 192


def test_text_encoder_modules_draw_even_where_they_are_not_trained(tiny_models):
    text_encoder, unet = tiny_models("sd1")
    torch.manual_seed(3)
    both = create_network(1.0, 4, 2.0, None, text_encoder, unet).unet_loras[0].lora_down.weight
    torch.manual_seed(3)
    network = create_network(1.0, 4, 2.0, None, text_encoder, unet)
    network.apply_to(text_encoder, unet, False, True)
    assert torch.equal(network.unet_loras[0].lora_down.weight, both)
    assert network.text_encoder_loras == []
    assert not any(key.startswith("lora_te") for key in network.state_dict())


def test_the_base_models_keep_their_own_state_dict(tiny_models):
    text_encoder, unet = tiny_models("sd1")
    before = list(unet.state_dict())
    create_network(1.0, 4, 2.0, None, text_encoder, unet).apply_to(text_encoder, unet, True, True)
    assert list(unet.state_dict()) == before


def test_a_whole_unet_runs_and_trains(tiny_models):
    text_encoder, unet = tiny_models("sd1")
    noisy, states = torch.randn(1, 4, 16, 16), torch.randn(1, 7, 32)
    before = unet(noisy, 5, states).sample
    network = create_network(1.0, 4, 2.0, None, text_encoder, unet, conv_dim="2")
    network.apply_to(text_encoder, unet, False, True)
    after = unet(noisy, 5, states).sample
    torch.testing.assert_close(after, before)
    after.square().mean().backward()
    assert all(module.lora_up.weight.grad is not None for module in network.unet_loras)


def test_multiplier_zero_and_disabling_give_the_base_model(tiny_models):
    text_encoder, unet = tiny_models("sd1")
    noisy, states = torch.randn(1, 4, 16, 16), torch.randn(1, 7, 32)
    before = unet(noisy, 5, states).sample
    network = filled(create_network(1.0, 4, 2.0, None, text_encoder, unet))
    network.apply_to(text_encoder, unet)
    network.set_multiplier(0.0)
    torch.testing.assert_close(unet(noisy, 5, states).sample, before)
    network.set_multiplier(1.0)
    assert not torch.allclose(unet(noisy, 5, states).sample, before)
    network.set_enabled(False)
    assert torch.equal(unet(noisy, 5, states).sample, before)


# --- ranks per block ---------------------------------------------------------------------------------------------------


def test_block_dims_apply_to_the_unet_alone(tiny_models):
    dims = ",".join(["2"] * 12 + ["8"] + ["3"] * 12)
    network = make(tiny_models, block_dims=dims)
    ranks = {module.lora_name.split("_")[2]: module.rank for module in network.unet_loras}
    assert ranks == {"down": 2, "mid": 8, "up": 3}
    assert {module.rank for module in network.text_encoder_loras} == {4}


def test_blocks_with_rate_weight_zero_get_no_modules(tiny_models):
    network = make(tiny_models, mid_lr_weight="0", down_lr_weight="zeros")
    assert {module.target.path.split("_")[0] for module in network.unet_loras} == {"up"}


def test_an_empty_rate_weight_counts_as_not_given(tiny_models):
    assert make(tiny_models, down_lr_weight="").block_weights is None


def test_block_ranks_without_conv_leave_resnets_alone(tiny_models):
    assert len(make(tiny_models, block_dims=",".join(["4"] * 25)).unet_loras) == 192


# --- optimizer groups --------------------------------------------------------------------------------------------------


def test_groups_are_text_encoder_then_unet_with_default_rates(tiny_models):
    groups, names = make(tiny_models).prepare_optimizer_params(None, 1e-4, 5e-4)
    assert names == ["textencoder", "unet"]
    assert [(len(group["params"]), group["lr"]) for group in groups] == [(48, 5e-4), (384, 1e-4)]


def test_loraplus_splits_off_the_up_matrices(tiny_models):
    network = make(tiny_models, loraplus_lr_ratio="4", loraplus_unet_lr_ratio="16")
    groups, names = network.prepare_optimizer_params(1e-4, 1e-4, None)
    assert names == ["textencoder", "textencoder plus", "unet", "unet plus"]
    assert [group["lr"] for group in groups] == pytest.approx([1e-4, 4e-4, 1e-4, 16e-4])


def test_each_block_is_a_group_in_module_order(tiny_models):
    network = make(tiny_models, up_lr_weight="0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5")
    groups, names = network.prepare_optimizer_params(None, None, 1e-3)
    assert names[0] == "textencoder" and names[1] == "unet_block1" and names[-1] == "unet_block12"
    assert dict(zip(names, (group["lr"] for group in groups)))["unet_block16"] == 5e-4


def test_a_section_with_rate_zero_is_dropped_but_still_trainable(tiny_models):
    network = make(tiny_models)
    _, names = network.prepare_optimizer_params(0, 1e-4, 1e-4)
    assert names == ["unet"]
    assert len(list(network.get_trainable_params())) == 432


def test_nothing_left_to_train_is_an_error_naming_the_rates(tiny_models):
    with pytest.raises(ValueError, match="--text_encoder_lr 0, --unet_lr 0"):
        make(tiny_models).prepare_optimizer_params(0, 0, 1e-4)


# --- files -------------------------------------------------------------------------------------------------------------


def test_a_saved_file_has_plain_keys_and_two_hashes(tiny_models, tmp_path):
    metadata = {"ss_network_dim": "4"}
    network = make(tiny_models)
    network.save_weights(tmp_path / "x.safetensors", torch.float16, metadata)
    tensors = load_tensors(tmp_path / "x.safetensors")
    assert {key.partition(".")[2] for key in tensors} == {"lora_down.weight", "lora_up.weight", "alpha"}
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert read_metadata(tmp_path / "x.safetensors") == metadata
    assert sorted(metadata) == ["ss_network_dim", "sshs_legacy_hash", "sshs_model_hash"]


def test_a_file_comes_back_as_it_was_saved(tiny_models, saved):
    network = make(tiny_models)
    report = network.load_weights(saved)
    assert str(report) == "648 tensors loaded"
    assert all(torch.equal(tensor, network.state_dict()[key]) for key, tensor in load_tensors(saved).items())


def test_the_scale_follows_the_loaded_alpha(tiny_models, saved):
    network = make(tiny_models, alpha=1.0)
    network.load_weights(saved)
    assert {module.scale for module in network.adapters} == {0.5}


def test_another_rank_names_module_ranks_and_the_way_out(tiny_models, saved):
    with pytest.raises(ValueError, match=r"lora_te_text.*rank 4 .*rank 8 .*--dim_from_weights"):
        make(tiny_models, dim=8).load_weights(saved)


def test_a_file_of_another_family_is_refused(tiny_models, tmp_path):
    path = tmp_path / "other.safetensors"
    save_tensors(path, {"lora_transformer_single_blocks_0.lora_down.weight": torch.zeros(4, 8)}, None)
    with pytest.raises(ValueError, match="another model family"):
        make(tiny_models).load_weights(path)


def test_an_sd1_file_in_an_sdxl_model_is_told_as_another_family(tiny_models, saved):
    with pytest.raises(ValueError, match="another model family"):
        make(tiny_models, kind="sdxl").load_weights(saved)


def test_keys_without_a_place_are_counted_and_named(tiny_models, saved):
    text_encoder, unet = tiny_models("sd1")
    network = create_network(1.0, 4, 2.0, None, text_encoder, unet)
    network.apply_to(text_encoder, unet, False, True)
    report = network.load_weights(saved)
    assert "72 without a place in this network (lora_te_text_model_encoder_layers_0" in str(report)


def test_sdxl_files_with_diffusers_names_are_understood(tiny_models, tmp_path):
    network = filled(make(tiny_models, kind="sdxl"))
    names = {module.lora_name: module.target.diffusers_name for module in network.adapters}
    renamed = {names[key.partition(".")[0]] + "." + key.partition(".")[2]: value for key, value in network.state_dict().items()}
    assert any("down_blocks" in key for key in renamed)
    save_tensors(tmp_path / "x.safetensors", renamed, None)
    fresh = make(tiny_models, kind="sdxl")
    assert fresh.load_weights(tmp_path / "x.safetensors").unexpected_keys == []
    assert torch.equal(fresh.unet_loras[-1].lora_up.weight, network.unet_loras[-1].lora_up.weight)


def test_ranks_and_alphas_can_come_from_a_file(tiny_models, tmp_path):
    dims = ",".join(["2"] * 12 + ["8"] + ["3"] * 12)
    original = make(tiny_models, block_dims=dims)
    original.save_weights(tmp_path / "x.safetensors", None, {})
    text_encoder, unet = tiny_models("sd1")
    network, weights = create_network_from_weights(1, tmp_path / "x.safetensors", None, text_encoder, unet, rank_dropout="0.25")
    assert [module.rank for module in network.adapters] == [module.rank for module in original.adapters]
    assert {module.dropout.rank for module in network.adapters} == {0.25}
    assert len(weights) == len(original.state_dict())


def test_a_convolution_file_is_followed_without_conv_dim(tiny_models, tmp_path):
    make(tiny_models, conv_dim="2").save_weights(tmp_path / "x.safetensors", None, {})
    network, _ = create_network_from_weights(1, tmp_path / "x.safetensors", None, *tiny_models("sd1"))
    assert len(network.unet_loras) == 277


def test_base_weights_merge_to_what_the_adapter_computes(tiny_models, saved):
    noisy, states = torch.randn(1, 4, 16, 16), torch.randn(1, 7, 32)
    text_encoder, unet = tiny_models("sd1")
    network = create_network(0.6, 4, 2.0, None, text_encoder, unet)
    network.apply_to(text_encoder, unet)
    network.load_weights(saved)
    expected = unet(noisy, 5, states).sample
    text_encoder, unet = tiny_models("sd1")
    throwaway, weights = create_network_from_weights(0.6, saved, None, text_encoder, unet, for_inference=True)
    throwaway.merge_to(text_encoder, unet, weights, torch.float32, "cpu")
    torch.testing.assert_close(unet(noisy, 5, states).sample, expected, rtol=1e-4, atol=1e-5)


def test_weights_merged_for_inference_can_be_restored(tiny_models, saved):
    text_encoder, unet = tiny_models("sd1")
    layer = unet.mid_block.attentions[0].proj_in
    before = layer.weight.clone()
    network, weights = create_network_from_weights(1.0, saved, None, text_encoder, unet)
    network.apply_to(text_encoder, unet)
    network.load_state_dict(weights)
    network.backup_weights()
    network.pre_calculation()
    assert not torch.equal(layer.weight, before)
    network.restore_weights()
    assert torch.equal(layer.weight, before)
