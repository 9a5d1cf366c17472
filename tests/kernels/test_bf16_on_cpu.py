"""bf16 products over fp32."""

import copy

import pytest
import torch
from torch import nn

from library.kernels.bf16_on_cpu import ProductsInFp32, fast_bf16_on_cpu
from library.kernels.low_rank import linear_with_low_rank

ULP = 2**-8  # relative, of bf16


def results(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, gradient of x and gradients of the parameters."""
    x = x.detach().clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.float().square().sum().backward()
    return [y.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Linear(12, 20), (3, 5, 12)), (nn.Linear(12, 20, bias=False), (7, 12)), (nn.Conv2d(4, 6, 3, padding=1, stride=2), (2, 4, 8, 8))],
    ids=["linear on tokens", "linear without bias", "convolution"],
)
def test_products_are_those_of_fp32_rounded_once(layer, shape):
    torch.manual_seed(1)
    x = torch.randn(shape).bfloat16()
    layer = layer.bfloat16()
    with ProductsInFp32():
        found = results(layer, x)
    expected = results(copy.deepcopy(layer).float(), x.float())
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.float() - exact).abs().max() <= 4 * ULP * exact.abs().max()


def test_products_that_write_into_their_first_operand():
    base, a, b = torch.randn(4, 6).bfloat16(), torch.randn(4, 3).bfloat16(), torch.randn(3, 6).bfloat16()
    exact = base.float() + 0.5 * a.float() @ b.float()
    with ProductsInFp32():
        assert base.addmm_(a, b, alpha=0.5) is base
    assert torch.equal(base, exact.bfloat16())


def test_the_layer_with_its_low_rank_pair_and_autocast():
    torch.manual_seed(2)
    x, weight = torch.randn(9, 16), torch.randn(8, 16)
    down, up = torch.randn(2, 16, requires_grad=True), torch.randn(8, 2, requires_grad=True)
    with ProductsInFp32():
        y = linear_with_low_rank(x.bfloat16(), weight, None, down, up, 0.5)
        y.float().sum().backward()
    exact = x @ weight.t() + 0.5 * x @ down.t() @ up.t()
    assert (y.float() - exact).norm() <= 3 * ULP * exact.norm()
    assert down.grad.isfinite().all() and up.grad.norm() > 0


def test_only_where_the_processor_needs_it(monkeypatch):
    with fast_bf16_on_cpu(wanted=False) as detour:
        assert not detour
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with fast_bf16_on_cpu(wanted=True) as detour:
        assert detour
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    with fast_bf16_on_cpu(wanted=True) as detour:
        assert not detour
