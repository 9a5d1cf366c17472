"""What a change answers without being built is what the built change gives."""

import pytest
import torch
from torch import nn

from library.kernels.rebuilt import recomputed
from networks.changes import INPUT, OUTPUT, Hadamard, Kronecker, LowRank, kronecker, low_rank_is_cheaper, slice_sums

LINEAR, CONV = (12, 18), (12, 18, 3, 3)


def leaf(*shape):
    return torch.randn(shape, requires_grad=True)


def changes():
    """name -> (change, its factors, shape of the weight)."""
    torch.manual_seed(0)
    made = {}
    for name, shape in {"linear": LINEAR, "conv": CONV}.items():
        down, up = leaf(3, *shape[1:]), leaf(12, 3)
        made[f"low rank, {name}"] = (LowRank(down, up), [down, up], shape)
        flat = torch.Size(shape[1:]).numel()
        factors = [leaf(12, 5), leaf(5, flat), leaf(12, 5), leaf(5, flat)]
        made[f"hadamard, {name}"] = (Hadamard(tuple(factors[:2]), tuple(factors[2:]), shape), factors, shape)
        w1, w2 = leaf(3, 2), leaf(4, 9, *shape[2:])
        made[f"kronecker, {name}"] = (Kronecker(w1, w2), [w1, w2], shape)
    factors = [leaf(3, 12), leaf(3, 18), leaf(3, 3, 3, 3), leaf(3, 12), leaf(3, 18), leaf(3, 3, 3, 3)]
    made["hadamard, tucker"] = (Hadamard(tuple(factors[:3]), tuple(factors[3:]), CONV), factors, CONV)
    return made


NAMES = list(changes())


@pytest.mark.parametrize("axis", [OUTPUT, INPUT])
@pytest.mark.parametrize("name", NAMES)
def test_the_growth_of_squared_norms_and_its_gradients(name, axis):
    change, factors, shape = changes()[name]
    weight, g = torch.randn(shape), torch.randn(shape[0 if axis == OUTPUT else 1])
    expected = slice_sums((weight + 0.5 * change.dense()).square(), axis) - slice_sums(weight.square(), axis)
    compare_with_gradients(change.growth(weight, axis, 0.5), expected, factors, g)


@pytest.mark.parametrize("name", [name for name in NAMES if "conv" in name])
def test_weights_that_lie_channels_last_grow_alike(name):
    change, _, shape = changes()[name]
    weight = torch.randn(shape)
    for axis in (OUTPUT, INPUT):
        found = change.growth(weight.contiguous(memory_format=torch.channels_last), axis, 0.5)
        torch.testing.assert_close(found, change.growth(weight, axis, 0.5))


@pytest.mark.parametrize("name", NAMES)
def test_the_norm(name):
    change = changes()[name][0]
    torch.testing.assert_close(change.norm(), change.dense().norm())


@pytest.mark.parametrize("name", NAMES)
def test_scaled_rows_and_columns_and_their_gradients(name):
    change, factors, shape = changes()[name]
    rows, columns = leaf(shape[0]), leaf(shape[1])
    layer = nn.Linear(18, 12) if len(shape) == 2 else nn.Conv2d(18, 12, 3, padding=1)
    x = torch.randn((2, 5, 18) if len(shape) == 2 else (2, 18, 4, 4))
    base = layer(x).detach()
    tail = [1] * (len(shape) - 2)
    whole = change.dense() * rows.view(-1, 1, *tail) * columns.view(1, -1, *tail)
    expected = base + 0.5 * torch.func.functional_call(layer, {"weight": whole, "bias": torch.zeros(12)}, (x,))
    found = change.scaled(rows, columns).add_to(base, x, layer, 0.5)
    compare_with_gradients(found, expected, [*factors, rows, columns], torch.randn_like(expected))


def compare_with_gradients(found, expected, factors, g):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))
    for ours, theirs in zip(torch.autograd.grad(found, factors, g), torch.autograd.grad(expected, factors, g), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_a_loha_is_one_product_of_its_rank_squared():
    change, _, _ = changes()["hadamard, linear"]
    (a1, b1), (a2, b2) = change.first, change.second
    small = Hadamard((a1[:, :2], b1[:2]), (a2[:, :2], b2[:2]), LINEAR)
    product = small.low_rank()
    assert product.down.shape == (4, 18)
    torch.testing.assert_close(product.dense(), small.dense())


@pytest.mark.parametrize(
    ("rank", "shape", "cheaper"), [(8, (1280, 1280), True), (25, (1280, 1280), True), (26, (1280, 1280), False), (16, (320, 320), False)]
)
def test_rank_squared_pays_up_to_half_the_width(rank, shape, cheaper):
    assert low_rank_is_cheaper(rank, shape) is cheaper


def test_the_norm_of_a_kronecker_product_is_the_product_of_the_norms():
    first, second = torch.randn(2, 3), torch.randn(4, 5)
    torch.testing.assert_close(kronecker(first, second).norm(), first.norm() * second.norm())


def test_a_recomputed_value_leaves_frozen_tensors_without_a_gradient():
    frozen, trained = torch.randn(3), leaf(3)
    recomputed(lambda a, b: (a * b).sum(), frozen, trained).backward()
    assert torch.equal(trained.grad, frozen) and frozen.grad is None
