import pytest
import torch
from torch import nn

from networks.layers import Dropout, lora_module
from networks.max_norm import apply_max_norm, change_norms
from networks.targets import Target


@pytest.fixture
def modules():
    torch.manual_seed(0)
    layers = [nn.Linear(40, 30), nn.Linear(40, 30), nn.Linear(30, 40), nn.Conv2d(8, 6, 3), nn.Conv2d(8, 6, 1), nn.Linear(40, 30)]
    made = [lora_module(Target(f"m{i}", "x", layer, ""), 4, 2.0, 0.3, Dropout()) for i, layer in enumerate(layers)]
    for number, module in enumerate(made):
        nn.init.normal_(module.lora_up.weight, std=0.1 * number)
    return made


def test_norms_from_rank_sized_matrices_equal_those_of_the_whole_change(modules):
    expected = [module.delta_weight().norm().item() for module in modules]
    assert change_norms(modules).tolist() == pytest.approx(expected, rel=1e-6)


def test_modules_above_the_bound_are_scaled_to_it_and_the_others_left(modules):
    before = [module.delta_weight().norm().item() for module in modules]
    report = apply_max_norm(modules, 0.5)
    kept = [min(norm, 0.5) for norm in before]
    assert [module.delta_weight().norm().item() for module in modules] == pytest.approx(kept, rel=1e-6)
    assert report.keys_scaled == sum(norm > 0.5 for norm in before) > 0
    assert (report.mean.item(), report.maximum.item()) == pytest.approx((sum(kept) / len(kept), 0.5), rel=1e-6)


def test_both_factors_take_the_same_share(modules):
    down, up = modules[1].lora_down.weight.clone(), modules[1].lora_up.weight.clone()
    apply_max_norm(modules, 0.1)
    shares = [(modules[1].lora_down.weight / down).mean().item(), (modules[1].lora_up.weight / up).mean().item()]
    assert shares[0] == pytest.approx(shares[1], rel=1e-6)


def test_a_second_pass_scales_nothing(modules):
    apply_max_norm(modules, 0.5)
    assert apply_max_norm(modules, 0.5).keys_scaled == 0


def test_zero_weights_stay_zero(modules):
    apply_max_norm(modules, 0.5)
    assert not modules[0].lora_up.weight.any()
