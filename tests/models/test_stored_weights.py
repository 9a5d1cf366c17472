"""Layers whose frozen weights are stored smaller or elsewhere compute what the plain layers compute."""

import copy

import pytest
import torch
from torch import nn

from library.models.stored_weights import FLOAT8, StoredWeight, channel_scale, move_stored, store_weights

LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (2, 3, 6)),
    "linear without bias": (lambda: nn.Linear(6, 5, bias=False), (2, 6)),
    "conv": (lambda: nn.Conv2d(4, 5, 3, stride=2, padding=1), (2, 4, 7, 7)),
    "1x1 conv": (lambda: nn.Conv2d(4, 5, 1), (1, 4, 3, 3)),
}


def same(weight: StoredWeight) -> StoredWeight:
    return weight


def eight_bit(weight: StoredWeight) -> StoredWeight:
    return weight.in_8_bit(scaled=True)


def output_and_gradient(layer, x):
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * torch.arange(y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return y.detach(), x.grad


@pytest.mark.parametrize("make, shape", LAYERS.values(), ids=LAYERS)
def test_a_stored_weight_changes_neither_output_nor_gradient(make, shape):
    plain = make().requires_grad_(False)
    stored = nn.Sequential(copy.deepcopy(plain))
    store_weights(stored, same)
    x = torch.randn(shape)
    for found, expected in zip(output_and_gradient(stored, x), output_and_gradient(plain, x), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("make, shape", LAYERS.values(), ids=LAYERS)
def test_under_autocast_too(make, shape):
    plain = make().requires_grad_(False).bfloat16()
    stored = nn.Sequential(copy.deepcopy(plain))
    store_weights(stored, same)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = output_and_gradient(stored, torch.ones(shape)), output_and_gradient(plain, torch.ones(shape))
    torch.testing.assert_close(found, expected)


def test_8_bit_weights_take_one_byte_each_and_stay_near():
    layer = nn.Linear(64, 32).requires_grad_(False)
    exact = layer.weight.clone()
    size = store_weights(nn.Sequential(layer), eight_bit)
    assert size == 64 * 32 and layer.stored.data.dtype == FLOAT8
    assert ((layer.weight - exact).norm() / exact.norm()) < 0.04  # half a unit of three bits of mantissa


def test_weights_below_the_range_of_8_bit_are_kept_by_the_scale():
    tiny = StoredWeight(torch.full((2, 3), 1e-4), torch.float32)
    assert tiny.in_8_bit(scaled=False).full("cpu").abs().max() == 0
    torch.testing.assert_close(tiny.in_8_bit(scaled=True).full("cpu"), tiny.data, rtol=0.07, atol=0)


def test_weights_above_the_range_are_clipped_not_infinite():
    assert StoredWeight(torch.full((1, 1), 1e4), torch.float32).in_8_bit(scaled=False).full("cpu") == 448


def test_the_scale_is_the_least_power_of_two_that_fits():
    assert channel_scale(torch.tensor([[448.0, 1.0], [449.0, 0.0], [-0.875, 0.5]])).flatten().tolist() == [1.0, 2.0, 2.0**-9]


def test_a_stored_weight_is_neither_trained_nor_cast_nor_saved():
    layer = nn.Sequential(nn.Linear(3, 2))
    store_weights(layer, eight_bit)
    layer.to(torch.float64)
    assert layer[0].stored.data.dtype == FLOAT8
    assert [name for name, _ in layer.named_parameters()] == list(layer.state_dict()) == ["0.bias"]


def test_layers_named_to_be_skipped_stay_plain():
    model = nn.ModuleDict({"first": nn.Linear(2, 2), "second": nn.Linear(2, 2)})
    store_weights(model, eight_bit, skip=("first",))
    assert type(model["first"]) is nn.Linear and type(model["second"]) is not nn.Linear


def test_storing_twice_changes_what_is_stored():
    layer = nn.Sequential(nn.Linear(3, 2))
    store_weights(layer, same)
    store_weights(layer, eight_bit)
    assert layer[0].stored.data.dtype == FLOAT8


def test_an_adapter_around_a_stored_layer_finds_shape_and_kind():
    layer = nn.Sequential(nn.Linear(3, 2))
    store_weights(layer, eight_bit)
    found = layer[0]
    assert isinstance(found, nn.Linear) and type(found).__name__ == "Linear" and found.weight.shape == (2, 3)


def test_autograd_keeps_the_stored_weight_and_no_full_copy():
    layer = nn.Linear(64, 64, bias=False)
    store_weights(nn.Sequential(layer), eight_bit)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor.numel()), tensor)[1], lambda tensor: tensor):
        layer(torch.ones(1, 64, requires_grad=True))
    assert sum(kept) < 64 * 64


@pytest.mark.parametrize("change", [eight_bit, same])
def test_stored_weights_are_moved_and_cast_when_asked_for(change):
    module = nn.Sequential(nn.Linear(6, 5)).to(torch.bfloat16)
    store_weights(module, change)
    before = module[0].weight.float()
    module.float()
    move_stored(module, "cpu", torch.float32)
    assert module(torch.randn(2, 6)).dtype == module[0].weight.dtype == torch.float32
    torch.testing.assert_close(module[0].weight, before)
    move_stored(module, "meta", torch.float32)
    assert module[0].weight.device.type == "meta"


def test_weights_that_cannot_be_pinned_stay_as_they_are(monkeypatch):
    def refuse(tensor):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.Tensor, "pin_memory", refuse)
    stored = StoredWeight(torch.ones(2, 2), torch.float32).at("cpu", pinned=True)
    assert torch.equal(stored.full("cpu"), torch.ones(2, 2))
