"""Frozen layers whose weights are kept smaller, in 8 bit, or elsewhere, in main memory, than they are computed with.

The weight is made anew for each use, in the forward and again in the backward pass, so that of all such layers one at a time
is in full size. Autograd keeps a reference to the stored weight only; a plain cast would keep every full-size copy until backward.

8 bit is float8 e4m3 (arXiv:2209.05433): 3 bits of mantissa, normal numbers from 2**-6 to 448. The weights of image models lie
mostly below that range, so each output channel is stored times a power of two that brings its largest weight near 448.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max


@dataclass
class StoredWeight:
    """data: the weight in its stored form, where it is stored. scale: (out, 1, ...) that `data` is multiplied by, None for 1."""

    data: Tensor
    dtype: torch.dtype
    scale: Tensor | None = None

    def full(self, device: torch.device | str) -> Tensor:
        """The weight in `dtype` on `device`."""
        weight = self.data.to(device, non_blocking=True).to(self.dtype)
        return weight if self.scale is None else weight * self.scale.to(device, non_blocking=True)

    def in_8_bit(self, *, scaled: bool) -> "StoredWeight":
        """The same rounded to 8 bit. scaled: with a power of two per output channel; without, tiny weights become zero."""
        if self.data.dtype == FLOAT8:
            return self
        scale = channel_scale(self.data).to(self.dtype) if scaled else None
        data = self.data if scale is None else self.data / scale
        return StoredWeight(data.clamp(-LARGEST, LARGEST).to(FLOAT8), self.dtype, scale)

    def at(self, device: torch.device | str, *, pinned: bool = False) -> "StoredWeight":
        """The same on `device`. pinned: in main memory that a GPU reads directly."""
        data, scale = (None if tensor is None else tensor.to(device) for tensor in (self.data, self.scale))
        if pinned:
            with contextlib.suppress(RuntimeError):  # the system pins a part of its memory at most; other memory is slower, no more
                data = data.pin_memory()
        return StoredWeight(data, self.dtype, scale)

    def computed_in(self, dtype: torch.dtype) -> "StoredWeight":
        """The same in another precision; what is stored in 8 bit stays so."""
        scale = None if self.scale is None else self.scale.to(dtype)
        return StoredWeight(self.data if self.data.dtype == FLOAT8 else self.data.to(dtype), dtype, scale)

    def bytes(self) -> int:
        return self.data.numel() * self.data.element_size()


def channel_scale(weight: Tensor) -> Tensor:
    """(out, 1, ...): the least power of two by which each output channel, divided by it, fits into 8 bit."""
    largest = weight.detach().float().flatten(1).abs().amax(dim=1).clamp(min=2.0**-14)
    exponent = torch.ceil(torch.log2(largest / LARGEST))
    return torch.exp2(exponent).view(-1, *[1] * (weight.dim() - 1))


class _LinearOfStored(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor | None, stored: StoredWeight) -> Tensor:
        ctx.stored = stored
        return F.linear(x, stored.full(x.device), bias)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient @ ctx.stored.full(gradient.device).to(gradient.dtype), None, None


class _ConvOfStored(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor | None, stored: StoredWeight, settings: tuple) -> Tensor:
        ctx.stored, ctx.settings, ctx.input_shape = stored, settings, x.shape
        return F.conv2d(x, stored.full(x.device), bias, *settings)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        weight = ctx.stored.full(gradient.device).to(gradient.dtype)
        return torch.nn.grad.conv2d_input(ctx.input_shape, weight, gradient, *ctx.settings), None, None, None


class _Stored:
    """What both layer kinds share. `stored` is no parameter and no buffer: `.to()` neither moves nor casts it."""

    stored: StoredWeight

    @property
    def weight(self) -> Tensor:
        """The weight in full, made for whoever asks: adapters of other packages read it."""
        return self.stored.full(self.stored.data.device)

    def _computed(self, x: Tensor) -> Tensor:
        return x.to(self.stored.dtype) if torch.is_autocast_enabled(x.device.type) else x


# Named like their originals: adapters of other packages choose the layers they wrap by the name of the class.
class Linear(_Stored, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return _LinearOfStored.apply(self._computed(x), self.bias, self.stored)


class Conv2d(_Stored, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        settings = (self.stride, self.padding, self.dilation, self.groups)
        return _ConvOfStored.apply(self._computed(x), self.bias, self.stored, settings)


STORED_KINDS = {nn.Linear: Linear, nn.Conv2d: Conv2d}


def store_weights(module: nn.Module, change: Callable[[StoredWeight], StoredWeight], skip: tuple[str, ...] = ()) -> int:
    """Keeps the weight of each Linear and Conv2d inside `module` as `change` returns it; returns how many bytes they take now.

    skip: beginnings of names of layers left as they are. Layers that are stored already are changed again. The weights are
    frozen for good, and `module` has to be free of adapters, for a layer's forward is another one afterwards.
    """
    count = 0
    for name, layer in module.named_modules():
        if name.startswith(skip):
            continue
        if type(layer) in STORED_KINDS:
            parameter = layer._parameters.pop("weight")
            layer.__class__ = STORED_KINDS[type(layer)]
            layer.stored = StoredWeight(parameter.detach(), parameter.dtype)
        if isinstance(layer, _Stored):
            layer.stored = change(layer.stored)
            count += layer.stored.bytes()
    return count


def move_stored(module: nn.Module, device: torch.device | str, dtype: torch.dtype) -> None:
    """Moves the stored weights inside `module`, which `.to()` leaves where they are, and computes with them in `dtype` from now on."""
    for layer in module.modules():
        if isinstance(layer, _Stored):
            layer.stored = layer.stored.at(device).computed_in(dtype)


def all_weights(module: nn.Module) -> Iterator[Tensor]:
    """The parameters, and in full what is stored in place of one."""
    for layer in module.modules():
        if isinstance(layer, _Stored):
            yield layer.weight
        yield from layer.parameters(recurse=False)
