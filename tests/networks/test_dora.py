import importlib
import logging

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from library.saving.weights import load_tensors
from networks.changes import INPUT, OUTPUT
from networks.layers import Dropout, lora_module
from networks.magnitude import axis_of
from networks.targets import Target
from tests.networks.conftest import smallest_models
from tests.networks.kinds import adapter, layer_and_input

AXES = pytest.mark.parametrize("axis", [INPUT, OUTPUT])
WAYS = {"dora": {}, "loha": {"weight_decompose": "1"}, "lokr": {"dora_wd": "true", "wd_on_output": "True"}}


def slices(weight, axis):
    return weight.flatten(1).norm(dim=1) if axis == OUTPUT else weight.transpose(0, 1).flatten(1).norm(dim=1)


@AXES
@pytest.mark.parametrize("place", ["linear", "conv3x3"])
def test_every_slice_of_the_merged_weight_is_as_long_as_its_magnitude(axis, place):
    layer, _ = layer_and_input(place)
    module = adapter(f"dora by {axis}", layer)
    module.merge()
    torch.testing.assert_close(slices(layer.weight, axis), module.dora_scale.flatten())


@AXES
def test_magnitudes_start_as_the_weights_and_the_first_output_is_the_base_models(axis):
    layer, x = layer_and_input("linear")
    base = layer(x)
    module = adapter(f"dora by {axis}", layer, stirred=False)
    module.apply_to()
    torch.testing.assert_close(module.dora_scale.flatten(), slices(layer.weight, axis))
    torch.testing.assert_close(layer(x), base, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(module._ratio(layer.weight, module.change()), torch.ones(module.dora_scale.numel()), rtol=0, atol=0)


@AXES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_casting_the_model_later_does_not_move_the_start(axis, dtype):
    layer, x = layer_and_input("linear")
    adapter(f"dora by {axis}", layer, stirred=False).apply_to()
    layer.weight.data = layer.weight.data.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        expected = nn.functional.linear(x, layer.weight.to(torch.bfloat16), layer.bias.to(torch.bfloat16))
        torch.testing.assert_close(layer(x), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("place", "by_input", "by_output"), [("linear", (1, 12), (8, 1)), ("conv3x3", (1, 12, 1, 1), (8, 1, 1, 1))])
def test_magnitudes_have_the_shapes_that_others_know(place, by_input, by_output):
    layer, _ = layer_and_input(place)
    modules = {axis: adapter(f"dora by {axis}", layer) for axis in (INPUT, OUTPUT)}
    assert {axis: tuple(module.dora_scale.shape) for axis, module in modules.items()} == {INPUT: by_input, OUTPUT: by_output}
    assert {axis: axis_of(module.dora_scale, layer.weight) for axis, module in modules.items()} == {INPUT: INPUT, OUTPUT: OUTPUT}


@AXES
def test_magnitudes_stay_fp32_when_the_network_is_cast(axis):
    layer, _ = layer_and_input("linear")
    module = adapter(f"dora by {axis}", layer)
    before = module.dora_scale.detach().clone()
    module.to(torch.bfloat16)
    assert (module.lora_up.weight.dtype, module.weight_squares.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(module.dora_scale, before)


@AXES
def test_gradients_under_checkpointing_are_the_same(axis):
    layer, x = layer_and_input("linear")
    module = adapter(f"dora by {axis}", layer)
    module.apply_to()
    x.requires_grad_(True)
    wanted = [x, *module.parameters()]
    plain = torch.autograd.grad(layer(x).square().sum(), wanted)
    again = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).square().sum(), wanted)
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))


@AXES
def test_a_row_of_zeros_gives_finite_gradients(axis):
    layer = nn.Linear(6, 4).requires_grad_(False)
    layer.weight[1], layer.weight[:, 2] = 0, 0
    module = lora_module(Target("x", "x", layer, "x"), 2, 2.0, 1.0, Dropout())
    module.decompose(axis)
    module.apply_to()
    layer(torch.randn(3, 6)).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("way", ["dora", "loha", "lokr"])
def test_files_hold_exact_magnitudes_and_bring_the_network_back(tmp_path, way):
    make = importlib.import_module(f"networks.{way}")
    text_encoder, unet = smallest_models()
    network = make.create_network(1.0, 4, 2.0, None, text_encoder, unet, conv_dim="2", **WAYS[way])
    network.apply_to(text_encoder, unet, True, True)
    for module in network.adapters:
        module.dora_scale.data *= 1 + 0.1 * torch.rand_like(module.dora_scale)
    network.save_weights(tmp_path / "x.safetensors", torch.float16, {})
    stored = load_tensors(tmp_path / "x.safetensors")
    name = network.adapters[0].lora_name
    assert torch.equal(stored[f"{name}.dora_scale"], network.adapters[0].dora_scale)
    assert stored[f"{name}.alpha"].dtype == torch.float16
    again, _ = make.create_network_from_weights(1.0, tmp_path / "x.safetensors", None, *smallest_models())
    again.apply_to(None, None, True, True)
    report = again.load_weights(tmp_path / "x.safetensors")
    assert (report.missing_keys, report.unexpected_keys) == ([], [])
    assert {module.magnitude_axis for module in again.adapters} == {module.magnitude_axis for module in network.adapters}


def test_networks_lora_reads_a_dora_file_as_what_it_is(tmp_path):
    text_encoder, unet = smallest_models()
    dora, lora = (importlib.import_module(f"networks.{name}") for name in ("dora", "lora"))
    network = dora.create_network(1.0, 4, 2.0, None, text_encoder, unet)
    network.apply_to(text_encoder, unet, True, True)
    network.save_weights(tmp_path / "x.safetensors", None, {})
    again, _ = lora.create_network_from_weights(1.0, tmp_path / "x.safetensors", None, *smallest_models())
    assert {module.magnitude_axis for module in again.adapters} == {INPUT}


def test_a_dora_computes_with_its_own_weights_under_autocast():
    text_encoder, unet = smallest_models()
    network = importlib.import_module("networks.dora").create_network(1.0, 4, 2.0, None, text_encoder, unet)
    network.apply_to(text_encoder, unet, True, True)
    network.compute_in(torch.bfloat16)
    assert network.shadow is None


def test_magnitudes_train_at_the_ordinary_rate_under_lora_plus():
    text_encoder, unet = smallest_models()
    network = importlib.import_module("networks.dora").create_network(1.0, 4, 2.0, None, text_encoder, unet, loraplus_lr_ratio="4")
    network.apply_to(text_encoder, unet, False, True)
    groups, names = network.prepare_optimizer_params(None, None, 1e-3)
    assert [(name, group["lr"]) for name, group in zip(names, groups, strict=True)] == [("unet", 1e-3), ("unet plus", 4e-3)]
    assert len(groups[0]["params"]) == 2 * len(groups[1]["params"])


def test_networks_dora_cannot_be_told_not_to():
    with pytest.raises(ValueError, match=r"dora_wd=False.*networks\.lora"):
        importlib.import_module("networks.dora").create_network(1.0, 4, 2.0, None, *smallest_models(), dora_wd="False")


def test_an_axis_without_decomposition_costs_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        importlib.import_module("networks.lora").create_network(1.0, 4, 2.0, None, *smallest_models(), wd_on_output="True")
    assert "wd_on_output" in caplog.text
