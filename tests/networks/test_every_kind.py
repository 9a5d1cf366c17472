"""What holds for every kind of adapter on every kind of layer."""

import pytest
import torch

from library.models.stored_weights import StoredWeight, store_weights
from networks.max_norm import change_norms
from tests.networks.kinds import LAYERS, MAKERS, adapter, layer_and_input

every_kind_and_layer = pytest.mark.parametrize(("kind", "place"), [(kind, place) for kind in MAKERS for place in LAYERS])


@every_kind_and_layer
@pytest.mark.parametrize("multiplier", [0, 0.5, 1])
def test_the_output_is_that_of_the_merged_weight(kind, place, multiplier):
    layer, x = layer_and_input(place)
    base = layer(x)
    module = adapter(kind, layer, multiplier=multiplier).eval()
    module.apply_to()
    adapted = layer(x)
    module.enabled = False
    module.merge()
    torch.testing.assert_close(adapted, layer(x), rtol=1e-5, atol=1e-5)
    assert multiplier == 0 or not torch.allclose(adapted, base, atol=1e-3)


@every_kind_and_layer
def test_multiplier_0_is_the_base_model_exactly(kind, place):
    layer, x = layer_and_input(place)
    base = layer(x)
    adapter(kind, layer, multiplier=0).apply_to()
    assert torch.equal(layer(x), base)


@every_kind_and_layer
def test_a_new_adapter_changes_nothing(kind, place):
    layer, x = layer_and_input(place)
    base = layer(x)
    adapter(kind, layer, stirred=False).apply_to()
    torch.testing.assert_close(layer(x), base, rtol=1e-6, atol=1e-6)


@every_kind_and_layer
def test_gradients_are_those_of_the_whole_weight(kind, place):
    """Against autograd through the built weight."""
    layer, x = layer_and_input(place)
    module = adapter(kind, layer).eval()
    module.apply_to()
    x.requires_grad_(True)
    wanted = [x, *(parameter for parameter in module.parameters() if parameter.requires_grad)]
    found = torch.autograd.grad(layer(x).square().sum(), wanted)
    whole = layer.weight + module.delta_weight()
    module.enabled = False
    output = torch.func.functional_call(layer, {"weight": whole}, (x,))
    expected = torch.autograd.grad(output.square().sum(), wanted)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind not in ("oft", "dylora")])
def test_nothing_of_the_weights_size_is_kept_for_backward(kind):
    layer = torch.nn.Linear(96, 48).requires_grad_(False)
    module = adapter(kind, layer)
    module.apply_to()
    kept, own = [], {tensor.data_ptr() for tensor in (layer.weight, *module.parameters())}
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(torch.randn(3, 96, requires_grad=True))
    largest = max(tensor.numel() for tensor in kept if tensor.untyped_storage().data_ptr() not in own)
    assert largest < 96 * 48 / 2


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("autocast", [True, False])
def test_a_bf16_model_gives_the_fp32_output_to_bf16s_precision(kind, autocast):
    layer, x = layer_and_input("linear")
    module = adapter(kind, layer).eval()
    module.apply_to()
    expected = layer(x)
    layer.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = layer(x.to(torch.bfloat16))
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=0.03, atol=0.06)


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "oft"])
def test_the_norm_is_that_of_the_change_and_scales_with_its_factors(kind):
    layer, _ = layer_and_input("conv3x3")
    module = adapter(kind, layer)
    change = module.scale * module.change().dense()
    assert change_norms([module]).tolist() == pytest.approx([change.norm().item()], rel=1e-5)
    parameters, power = module.factor_shares()
    torch._foreach_mul_([parameter.data for parameter in parameters], 0.5**power)
    torch.testing.assert_close(module.scale * module.change().dense(), change / 2)


@pytest.mark.parametrize("place", ["linear", "conv3x3"])
@pytest.mark.parametrize("kind", [kind for kind in MAKERS if "dora" not in kind])
def test_a_weight_kept_in_8_bit_is_made_in_full_for_the_layer_alone(kind, place, monkeypatch):
    layer, x = layer_and_input(place)
    holder = torch.nn.Sequential(layer)
    store_weights(holder, lambda weight: weight.in_8_bit(scaled=True))
    made = []
    full = StoredWeight.full
    monkeypatch.setattr(StoredWeight, "full", lambda stored, device: made.append(1) or full(stored, device))
    module = adapter(kind, layer)
    module.apply_to()
    assert not made
    layer(x)
    assert len(made) == 1
