"""Convolutions with frozen weights that do not keep their input: torch keeps it for a weight gradient that nobody asks for."""

import functools
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from library.kernels.compiled_blocks import outside


def own_frozen_convolutions(model: nn.Module, compiled: Collection[nn.Module] = ()) -> None:
    """Each Conv2d of `model` that is frozen and that no adapter has wrapped keeps its weight only; call it after adapters are applied.

    compiled: blocks that stay as they are.
    """
    for layer in outside(model, compiled):
        if type(layer) is nn.Conv2d and "forward" not in layer.__dict__ and is_plain(layer) and not is_trained(layer):
            layer.forward = functools.partial(frozen_forward, layer)


def is_plain(layer: nn.Conv2d) -> bool:
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def is_trained(layer: nn.Conv2d) -> bool:
    return any(parameter.requires_grad for parameter in layer.parameters())


def frozen_forward(layer: nn.Conv2d, x: Tensor) -> Tensor:
    if is_trained(layer):
        return nn.Conv2d.forward(layer, x)
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return _FrozenConv.apply(x, layer.weight, layer.bias, (layer.stride, layer.padding, layer.dilation, layer.groups))


class _FrozenConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, places):
        ctx.save_for_backward(weight)
        ctx.input_shape, ctx.places = x.shape, places
        return F.conv2d(x, weight, bias, *places)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        weight = ctx.saved_tensors[0].to(grad.dtype)
        if mixes_channels_alone(weight, *ctx.places) and grad.is_contiguous(memory_format=torch.channels_last):
            return (grad.permute(0, 2, 3, 1) @ weight.flatten(1)).permute(0, 3, 1, 2), None, None, None
        return torch.nn.grad.conv2d_input(ctx.input_shape, weight, grad, *ctx.places), None, None, None


def mixes_channels_alone(weight: Tensor, stride, padding, dilation, groups: int) -> bool:
    """Whether the convolution is a product over channels; for such ones torch would lay the input's gradient out contiguously."""
    return tuple(weight.shape[2:]) == (1, 1) and tuple(stride) == (1, 1) and tuple(padding) == (0, 0) and groups == 1
