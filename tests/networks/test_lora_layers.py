import pytest
import torch
import torch.nn.functional as F
from torch import nn

from networks.layers import AdapterModule, Dropout, lora_module
from networks.targets import Target

NO_DROPOUT = Dropout()


def attached(layer, rank=4, alpha=2.0, multiplier=1.0, dropout=NO_DROPOUT, up=0.1) -> AdapterModule:
    """A LoRA in place around `layer`, its up weights random of size `up`."""
    module = lora_module(Target("lora_unet_x", "x", layer, "lora_unet_x"), rank, alpha, multiplier, dropout)
    nn.init.normal_(module.lora_up.weight, std=up)
    module.apply_to()
    return module


LAYERS = {
    "linear": (nn.Linear(8, 6), (2, 3, 8)),
    "conv1x1": (nn.Conv2d(8, 6, 1), (2, 8, 5, 5)),
    "conv3x3": (nn.Conv2d(8, 6, 3, stride=2, padding=1), (2, 8, 5, 5)),
}


@pytest.fixture(params=LAYERS)
def layer_and_input(request):
    layer, shape = LAYERS[request.param]
    torch.manual_seed(0)
    fresh = nn.Linear(8, 6) if isinstance(layer, nn.Linear) else nn.Conv2d(8, 6, layer.kernel_size, layer.stride, layer.padding)
    return fresh.requires_grad_(False), torch.randn(shape)


def test_a_new_lora_changes_nothing(layer_and_input):
    layer, x = layer_and_input
    before = layer(x)
    attached(layer, up=0)
    assert torch.equal(layer(x), before)


def test_the_output_is_that_of_the_merged_weight(layer_and_input):
    layer, x = layer_and_input
    module = attached(layer, multiplier=0.7)
    adapted = layer(x)
    module.enabled = False
    module.merge()
    torch.testing.assert_close(layer(x), adapted, rtol=1e-5, atol=1e-6)


def test_the_scale_is_alpha_over_rank(layer_and_input):
    layer, x = layer_and_input
    base = layer(x)
    module = attached(layer, rank=4, alpha=2.0, multiplier=3.0)
    expected = base + module.lora_up(module.lora_down(x)) * 3.0 * 0.5
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("alpha", [None, 0])
def test_no_alpha_means_the_rank(alpha):
    module = attached(nn.Linear(8, 6), rank=4, alpha=alpha)
    assert (module.scale, int(module.alpha)) == (1.0, 4)


@pytest.mark.parametrize(("alpha", "dtype"), [(1, torch.int64), (1.0, torch.float32)])
def test_alpha_is_saved_in_the_type_it_was_given(alpha, dtype):
    assert attached(nn.Linear(8, 6), alpha=alpha).alpha.dtype == dtype


def test_a_fractional_alpha_from_a_file_survives_a_whole_number_buffer():
    module = attached(nn.Linear(8, 6), rank=4, alpha=1)
    module.load_state_dict({"alpha": torch.tensor(0.5)}, strict=False)
    assert module.scale == 0.125


def test_the_wrapped_layer_is_neither_child_nor_parameter():
    module = attached(nn.Linear(8, 6))
    assert list(module.state_dict()) == ["alpha", "lora_down.weight", "lora_up.weight"]


def test_gradients_reach_both_factors_and_the_input(layer_and_input):
    layer, x = layer_and_input
    module = attached(layer)
    x.requires_grad_(True)
    layer(x).square().sum().backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in (x, module.lora_down.weight, module.lora_up.weight))


@pytest.mark.parametrize("autocast", [True, False])
def test_bf16_activations_work_with_and_without_autocast(layer_and_input, autocast):
    layer, x = layer_and_input
    layer.to(torch.bfloat16)
    attached(layer)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = layer(x.to(torch.bfloat16))
    assert output.dtype == torch.bfloat16


def test_autocast_takes_fp32_activations(layer_and_input):
    layer, x = layer_and_input
    expected = layer(x)
    layer.to(torch.bfloat16)
    attached(layer, up=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x).float(), expected, rtol=0.05, atol=0.05)


def test_a_linear_lora_keeps_only_the_input_and_the_rank_sized_product():
    layer = nn.Linear(64, 32).requires_grad_(False)
    module = attached(layer, rank=2)
    x, saved = torch.randn(10, 64, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        layer(x)
    weights = {tensor.data_ptr() for tensor in (layer.weight, module.lora_down.weight, module.lora_up.weight)}
    kept = {tensor.data_ptr(): tensor.numel() for tensor in saved if tensor.data_ptr() not in weights}
    assert sorted(kept.values()) == [10 * 2, 10 * 64]


def test_network_dropout_is_ordinary_dropout_of_the_rank_sized_activations(layer_and_input):
    layer, x = layer_and_input
    base = layer(x)
    module = attached(layer, dropout=Dropout(neuron=0.5))
    torch.manual_seed(1)
    adapted = layer(x)
    torch.manual_seed(1)
    expected = base + module.lora_up(F.dropout(module.lora_down(x), 0.5)) * 0.5
    torch.testing.assert_close(adapted, expected)


def test_rank_dropout_leaves_ranks_out_per_sample(layer_and_input):
    layer, x = layer_and_input
    base = layer(x)
    module = attached(layer, dropout=Dropout(rank=0.5))
    torch.manual_seed(1)
    adapted = layer(x)
    torch.manual_seed(1)
    keep = torch.rand(2, 4) > 0.5
    hidden = module.lora_down(x)
    hidden = hidden * (keep[:, None] if hidden.dim() == 3 else keep[:, :, None, None])
    torch.testing.assert_close(adapted, base + module.lora_up(hidden) * 0.5 * 2)


def test_module_dropout_leaves_the_whole_adapter_out_of_a_call():
    layer, x = nn.Linear(8, 6), torch.randn(2, 8)
    base = layer(x)
    attached(layer, dropout=Dropout(module=0.5))
    torch.manual_seed(0)
    left_out = [torch.equal(layer(x), base) for _ in range(20)]
    torch.manual_seed(0)
    assert left_out == [bool(torch.rand(1) < 0.5) for _ in range(20)]


def test_no_dropout_outside_training(layer_and_input):
    layer, x = layer_and_input
    module = attached(layer, dropout=Dropout(neuron=0.5, rank=0.5, module=0.5)).eval()
    expected = layer(x)
    assert torch.equal(layer(x), expected)
    assert not module.training


def test_merging_rounds_to_the_given_dtype():
    layer = nn.Linear(8, 6)
    exact = layer.weight.detach().clone()
    module = attached(layer, multiplier=2.0)
    module.merge(torch.bfloat16)
    expected = exact + 2.0 * 0.5 * (module.lora_up.weight @ module.lora_down.weight)
    assert torch.equal(layer.weight, expected.to(torch.bfloat16).float())
