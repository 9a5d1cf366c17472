import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from library.kernels.attention import own_attention
from library.kernels.frozen_conv import own_frozen_convolutions
from library.kernels.pointwise import Pointwise
from library.kernels.recompute import CheapOutputs
from library.kernels.unet_pointwise import own_pointwise
from tests.kernels.small_unet import small_unet


@pytest.fixture(scope="module")
def counter():
    path = Path(__file__).parents[2] / "bench" / "count.py"
    spec = importlib.util.spec_from_file_location("bench_count", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Counter


def unet_of(checkpointing: bool | str, frozen_convolutions: bool = True):
    """A U-Net whose transformer blocks are trained, and the recipes of its cheap outputs."""
    unet, cheap = small_unet(), CheapOutputs() if checkpointing == "selective" else None
    own_attention(unet)
    own_pointwise(unet, Pointwise(cheap=cheap))
    for layer in unet.modules():
        if isinstance(layer, nn.Linear):
            layer.requires_grad_(True)
    if frozen_convolutions:
        own_frozen_convolutions(unet)
    if cheap is not None:
        cheap.keeping_recipes(unet)
    if checkpointing is True:
        unet.enable_gradient_checkpointing()
        unet.train()
    return unet


def gradients(unet, autocast: bool = False):
    drawn = torch.Generator().manual_seed(1)
    latents, context = torch.randn(2, 4, 8, 8, generator=drawn), torch.randn(2, 3, 8, generator=drawn)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = unet(latents, torch.tensor([3, 5]), context).sample.float().square().mean()
    loss.backward()
    return [parameter.grad for parameter in unet.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("autocast", [False, True])
def test_selective_checkpointing_gives_the_same_gradients_to_the_last_bit(autocast):
    for ours, theirs in zip(gradients(unet_of("selective"), autocast), gradients(unet_of(False), autocast), strict=True):
        assert torch.equal(ours, theirs)


def test_frozen_convolutions_change_no_bit():
    for ours, theirs in zip(gradients(unet_of(False)), gradients(unet_of(False, frozen_convolutions=False)), strict=True):
        assert torch.equal(ours, theirs)


def test_each_way_of_keeping_less_needs_less_memory(counter):
    peaks = []
    for arguments in ((False, False), (False,), ("selective",), (True,)):
        unet = unet_of(*arguments)
        with counter(on_host=[]) as counted:
            gradients(unet)
        peaks.append(counted.counts.peak_bytes)
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == 4


def test_an_output_kept_by_several_is_computed_again_once():
    cheap, calls = CheapOutputs(), []

    def double(x):
        calls.append(1)
        return x * 2

    class Model(nn.Module):
        def forward(self, x):
            doubled = cheap.note(double(x), double, x)
            return doubled * doubled.exp() + doubled.sin()

    model, x = Model(), torch.randn(3, requires_grad=True)
    expected = torch.autograd.grad(model(x).sum(), x)
    cheap.keeping_recipes(model)
    calls.clear()
    result = model(x).sum()
    assert len(calls) == 1
    assert torch.equal(torch.autograd.grad(result, x)[0], expected[0])
    assert len(calls) == 2


def test_trained_convolutions_keep_what_they_need():
    layers = nn.Sequential(nn.Conv2d(2, 3, 3).requires_grad_(False), nn.Conv2d(3, 2, 3))
    own_frozen_convolutions(layers)
    layers(torch.ones(1, 2, 6, 6)).sum().backward()
    assert layers[1].weight.grad.abs().sum() > 0
    assert ["forward" in layer.__dict__ for layer in layers] == [True, False]


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_frozen_convolutions_hand_gradients_on_in_the_layout_of_the_picture(kernel, layout):
    layer = nn.Conv2d(3, 5, kernel, padding=kernel // 2).requires_grad_(False).to(memory_format=layout)
    x = torch.randn(2, 3, 4, 4).contiguous(memory_format=layout).requires_grad_()
    upstream = torch.randn(2, 5, 4, 4).contiguous(memory_format=layout)
    (expected,) = torch.autograd.grad(layer(x), x, upstream)
    own_frozen_convolutions(layer)
    (found,) = torch.autograd.grad(layer(x), x, upstream)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=layout)
