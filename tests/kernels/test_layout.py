import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from library.kernels.attention import own_attention
from library.kernels.layout import layout_for, own_layout
from library.kernels.pointwise import Pointwise
from library.kernels.unet_pointwise import own_pointwise
from library.models.stored_weights import store_weights
from tests.kernels.small_unet import small_unet


class Copies(TorchDispatchMode):
    """Counts copies of whole pictures or tokens."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func._schema.name in ("aten::clone", "aten::copy_", "aten::_to_copy") and result.dim() >= 3:
            self.count += 1
        return result


@pytest.fixture(params=[False, True], ids=["conv_projection", "linear_projection"])
def unet(request):
    unet = small_unet(use_linear_projection=request.param)
    own_attention(unet)
    own_pointwise(unet, Pointwise())
    return unet


def outcome(unet):
    """The prediction, its gradient, and how many copies that took."""
    drawn = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 8, 8, generator=drawn).requires_grad_()
    with Copies() as copies:
        prediction = unet(latents, torch.tensor([3, 5]), torch.randn(2, 3, 8, generator=drawn)).sample
        prediction.square().sum().backward()
    return prediction, latents.grad, copies.count


def test_channels_last_gives_the_same_and_copies_only_latents(unet):
    *expected, copies = outcome(unet)
    own_layout(unet, torch.channels_last)
    *found, fewer = outcome(unet)
    assert unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert fewer == 2 < copies  # the latents, and their gradient


def test_weights_that_are_made_for_each_use_stay_contiguous(unet):
    store_weights(unet.mid_block, lambda weight: weight)
    own_layout(unet, torch.channels_last)
    assert unet.conv_in.weight.is_contiguous()


def test_channels_last_is_for_half_precision_on_tensor_cores_whose_norms_keep_it(monkeypatch):
    gpu, follow = torch.device("cuda"), {"norms_follow": True}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    assert layout_for(gpu, torch.float16, **follow) == torch.channels_last
    assert layout_for(gpu, torch.float16, norms_follow=False) == torch.contiguous_format
    assert layout_for(gpu, torch.float32, **follow) == layout_for(torch.device("cpu"), torch.bfloat16, **follow) == torch.contiguous_format
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert layout_for(gpu, torch.float16, **follow) == torch.contiguous_format
