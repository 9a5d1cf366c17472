import pytest
import torch
import torch.nn.functional as F

from library.kernels.low_rank import conv_with_low_rank, linear_with_low_rank

LINEAR, CONV = "linear", "conv"
KINDS = {
    LINEAR: ((2, 5, 8), (6, 8), (3, 8), (6, 3), (2, 5, 3)),
    "conv1x1": ((2, 8, 5, 4), (6, 8, 1, 1), (3, 8, 1, 1), (6, 3, 1, 1), (2, 3, 5, 4)),
    "conv3x3": ((2, 8, 5, 4), (6, 8, 3, 3), (3, 8, 3, 3), (6, 3, 1, 1), (2, 3, 3, 2)),
}
PLACES = {"conv1x1": {"stride": (1, 1), "padding": (0, 0)}, "conv3x3": {"stride": (2, 2), "padding": (1, 1)}}


def inputs(kind, dtype, *, channels_last=False, masked=False):
    """x, weight, bias, down, up, mask; x, down and up want gradients."""
    shapes = KINDS[kind]
    torch.manual_seed(0)
    x, weight, down, up = (torch.randn(shape, dtype=dtype) for shape in shapes[:4])
    if channels_last:
        x, weight = x.to(memory_format=torch.channels_last), weight.to(memory_format=torch.channels_last)
    mask = F.dropout(torch.ones(shapes[4], dtype=dtype), 0.5) if masked else None
    return x.requires_grad_(), weight, torch.randn(6, dtype=dtype), down.requires_grad_(), up.requires_grad_(), mask


def plain(kind, x, weight, bias, down, up, scale, mask):
    """The same in ordinary operations."""
    mask = 1 if mask is None else mask
    if kind == LINEAR:
        return F.linear(x, weight, bias) + scale * F.linear(F.linear(x, down) * mask, up)
    places = PLACES[kind]
    return F.conv2d(x, weight, bias, **places) + scale * F.conv2d(F.conv2d(x, down, **places) * mask, up)


def fused(kind, x, weight, bias, down, up, scale, mask):
    if kind == LINEAR:
        return linear_with_low_rank(x, weight, bias, down, up, scale, mask)
    return conv_with_low_rank(x, weight, bias, down, up, scale, mask, **PLACES[kind])


def output_and_gradients(function, kind, x, weight, bias, down, up, scale, mask):
    y = function(kind, x, weight, bias, down, up, scale, mask)
    torch.manual_seed(1)
    return y.detach(), *torch.autograd.grad(y, (x, down, up), torch.randn(y.shape, dtype=y.dtype))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_output_and_gradients_are_those_of_the_plain_form(kind, masked, channels_last):
    if channels_last and kind == LINEAR:
        return
    x, weight, bias, down, up, mask = inputs(kind, torch.float64, channels_last=channels_last, masked=masked)
    expected = output_and_gradients(plain, kind, x, weight, bias, down, up, 0.7, mask)
    got = output_and_gradients(fused, kind, x, weight, bias, down, up, 0.7, mask)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_the_result_is_as_near_to_fp32_as_the_plain_form_is(kind):
    x, weight, bias, down, up, _ = inputs(kind, torch.float32)
    exact = output_and_gradients(plain, kind, x, weight, bias, down, up, 0.7, None)
    low = [tensor.detach().bfloat16().requires_grad_(tensor.requires_grad) for tensor in (x, weight, bias, down, up)]
    for reference, got, ordinary in zip(
        exact,
        output_and_gradients(fused, kind, *low, 0.7, None),
        output_and_gradients(plain, kind, *low, 0.7, None),
        strict=True,
    ):
        assert got.dtype == torch.bfloat16
        assert (got.float() - reference).norm() <= 1.2 * (ordinary.float() - reference).norm() + 1e-3 * reference.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_each_gradient_comes_in_its_own_dtype(kind):
    x, weight, bias, down, up, _ = inputs(kind, torch.float32)
    y = fused(kind, x.detach().bfloat16().requires_grad_(), weight.half(), bias.half(), down, up, 1.0, None)
    y.sum().backward()
    assert (y.dtype, down.grad.dtype, up.grad.dtype) == (torch.bfloat16, torch.float32, torch.float32)


def test_only_the_gradients_asked_for_are_made():
    x, weight, bias, down, up, _ = inputs(LINEAR, torch.float32)
    fused(LINEAR, x.detach(), weight, bias, down.detach(), up, 1.0, None).sum().backward()
    assert up.grad is not None and x.grad is None and down.grad is None


def test_the_input_is_kept_once():
    x, weight, bias, down, up, _ = inputs(LINEAR, torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        fused(LINEAR, x, weight, bias, down, up, 1.0, None)
    assert [tensor.data_ptr() for tensor in kept].count(x.data_ptr()) == 1
    assert sum(tensor.numel() for tensor in kept) == x.numel() + 2 * 5 * 3 + weight.numel() + down.numel() + up.numel()
