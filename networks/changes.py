"""The forms a weight change can have, and what each can do without being built: LowRank (LoRA), Hadamard (LoHa), Kronecker (LoKr).

All answer the same questions, with D the change in the weight's shape, (out, in) or (out, in, kh, kw):

    add_to(base, x, layer)   base + what the layer would make of x with the weight D and no bias
    with_layer(x, layer, s)  add_to(layer(x), ...) as one product for a frozen layer, or None if there is no such product
    stretched_layer(...)     the same with a factor per channel (library/kernels/stretched.py), or None
    scaled(outputs, inputs)  D with its rows and columns multiplied
    growth(weight, axis, s)  per output or input channel, how much longer |W + s D|² of its slice is than |W|²: fp32
    norm()                   |D|: a tensor of no dimension, fp32
    dense()                  D itself

The last three are exact whatever dtype the base model has; nothing of the weight's size is kept for backward.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from library.kernels.kronecker import add_kronecker, add_kronecker_conv
from library.kernels.low_rank import conv_with_low_rank, linear_with_low_rank
from library.kernels.rebuilt import Places, add_product, folded_linear, recomputed
from library.kernels.stretched import linear_stretched

OUTPUT, INPUT = "output", "input"  # the two axes: one number per output channel, or per input channel


def conv_places(layer: nn.Linear | nn.Conv2d) -> Places | None:
    """How a convolution moves; None for a Linear layer."""
    return None if isinstance(layer, nn.Linear) else (layer.stride, layer.padding, layer.dilation, layer.groups)


def slice_sums(tensor: Tensor, axis: str) -> Tensor:
    """Sums over all but the output or the input axis: (out,) or (in,)."""
    return tensor.flatten(1).sum(1) if axis == OUTPUT else tensor.transpose(0, 1).flatten(1).sum(1)


def along(values: Tensor, dims: int, axis: int) -> Tensor:
    """A vector in the shape that multiplies one axis of a tensor with `dims` axes."""
    shape = [1] * dims
    shape[axis] = -1
    return values.view(shape)


def tucker_product(core: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """(out, in, kh, kw) from core (r, r, kh, kw), left (r, out) and right (r, in)."""
    return torch.einsum("ijhw,ip,jq->pqhw", core, left, right)


@dataclass(frozen=True)
class LowRank:
    """up down, down (rank, in) or a kernel (rank, in, kh, kw), up (out, rank)."""

    down: Tensor
    up: Tensor

    def add_to(self, base: Tensor, x: Tensor, layer: nn.Linear | nn.Conv2d, scale: float = 1.0, drop=None) -> Tensor:
        """drop: what happens to the rank-sized activations on the way, such as dropout; `scale` goes on them as well."""
        places = conv_places(layer)
        down, up = self.down.to(x.dtype), self.up.to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            hidden = F.linear(x, down) if places is None else F.conv2d(x, down, None, *places[:3])
            hidden = (drop(hidden) if drop else hidden) * scale
            if places is not None:
                return base + F.conv2d(hidden.to(x.dtype), up[:, :, None, None])
            rows = hidden.flatten(0, -2).to(x.dtype)
            return torch.addmm(base.flatten(0, -2).to(x.dtype), rows, up.t()).view(base.shape)

    def with_layer(self, x: Tensor, layer: nn.Linear | nn.Conv2d, scale: float) -> Tensor:
        if isinstance(layer, nn.Linear):
            return linear_with_low_rank(x, layer.weight, layer.bias, self.down, self.up, scale)
        up = self.up[:, :, None, None]
        return conv_with_low_rank(x, layer.weight, layer.bias, self.down, up, scale, stride=layer.stride, padding=layer.padding)

    def stretched_layer(self, x: Tensor, layer: nn.Linear | nn.Conv2d, scale: float, excess: Tensor, axis: str) -> Tensor | None:
        if not isinstance(layer, nn.Linear):
            return None
        return linear_stretched(x, layer.weight, layer.bias, self.down, self.up, scale, excess, by_input=axis == INPUT)

    def scaled(self, outputs: Tensor | None = None, inputs: Tensor | None = None) -> "LowRank":
        up = self.up if outputs is None else self.up * outputs[:, None]
        return LowRank(self.down if inputs is None else self.down * along(inputs, self.down.dim(), 1), up)

    def growth(self, weight: Tensor, axis: str, scale: float) -> Tensor:
        inner = _InnerLowRank.apply(weight, self.down.float(), self.up.float(), axis)
        return 2 * scale * inner + scale**2 * self._squares(axis)

    def _squares(self, axis: str) -> Tensor:
        """From rank-sized matrices: |row o|² = u A Aᵀ uᵀ with u the row of up; columns alike."""
        down, up = self.down.float(), self.up.float()
        flat = down.flatten(1)
        if axis == OUTPUT:
            return ((up @ (flat @ flat.t())) * up).sum(1)
        return slice_sums((up.t() @ up @ flat).view(down.shape) * down, INPUT)

    def norm(self) -> Tensor:
        flat, up = self.down.float().flatten(1), self.up.float()
        return ((flat @ flat.t()).double() * (up.t() @ up).double()).sum().clamp(min=0).sqrt().float()

    def dense(self) -> Tensor:
        return (self.up.float() @ self.down.float().flatten(1)).view(-1, *self.down.shape[1:])


@dataclass(frozen=True)
class Hadamard:
    """The elementwise product of two low-rank matrices or of two Tucker products (with a third factor, the core)."""

    first: tuple[Tensor, ...]  # a (out, rank), b (rank, in * kernel); with a core t: a (rank, out), b (rank, in), t (rank, rank, kh, kw)
    second: tuple[Tensor, ...]
    shape: tuple[int, ...]  # of the weight

    def add_to(self, base: Tensor, x: Tensor, layer: nn.Linear | nn.Conv2d, scale: float = 1.0, drop=None) -> Tensor:
        product = self.low_rank()
        if product is not None:
            return product.add_to(base, x, layer, scale, drop)
        a, *rest = self.first
        return add_product(base, x, self._build, (a * scale, *rest, *self.second), conv_places(layer))

    def with_layer(self, x: Tensor, layer: nn.Linear | nn.Conv2d, scale: float) -> Tensor | None:
        a, *rest = self.first
        exact = x.dtype == layer.weight.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
        if exact and isinstance(layer, nn.Linear) and not low_rank_is_cheaper(a.shape[-1], self.shape, products=2):
            return folded_linear(x, layer.weight, layer.bias, self._build, (a * scale, *rest, *self.second))
        product = self.low_rank()
        return None if product is None else product.with_layer(x, layer, scale)

    def stretched_layer(self, x: Tensor, layer: nn.Linear | nn.Conv2d, scale: float, excess: Tensor, axis: str) -> Tensor | None:
        product = self.low_rank()
        return None if product is None else product.stretched_layer(x, layer, scale, excess, axis)

    def low_rank(self) -> LowRank | None:
        """The same change as one product of rank r² (a Khatri-Rao product on each side), where that is cheaper than building it."""
        if len(self.first) == 3 or not low_rank_is_cheaper(self.first[1].shape[0], self.shape):
            return None
        (a1, b1), (a2, b2) = self.first, self.second
        up = (a1[:, :, None] * a2[:, None, :]).flatten(1)
        down = (b1[:, None, :] * b2[None, :, :]).flatten(0, 1)
        return LowRank(down.view(-1, *self.shape[1:]), up)

    def scaled(self, outputs: Tensor | None = None, inputs: Tensor | None = None) -> "Hadamard":
        a, b, *core = self.first
        if outputs is not None:
            a = a * (outputs if core else outputs[:, None])
        if inputs is not None:
            b = (b.view(b.shape[0], inputs.numel(), -1) * inputs[:, None]).view(b.shape)
        return replace(self, first=(a, b, *core))

    def growth(self, weight: Tensor, axis: str, scale: float) -> Tensor:
        """From the change itself, built and let go: its inner product with W costs as much any other way."""

        def build(*factors: Tensor) -> Tensor:
            change = self._build(*factors) * scale
            return slice_sums(change * torch.add(change, weight, alpha=2), axis)

        return recomputed(build, *self._factors())

    def norm(self) -> Tensor:
        return self.dense().norm()

    def dense(self) -> Tensor:
        return self._build(*self._factors())

    def _factors(self) -> list[Tensor]:
        return [factor.float() for factor in (*self.first, *self.second)]

    def _build(self, *factors: Tensor) -> Tensor:
        if len(factors) == 4:
            a1, b1, a2, b2 = factors
            return ((a1 @ b1) * (a2 @ b2)).view(self.shape)
        a1, b1, t1, a2, b2, t2 = factors
        return tucker_product(t1, a1, b1) * tucker_product(t2, a2, b2)


@dataclass(frozen=True)
class Kronecker:
    """w1 (x) w2, w1 (l, m), w2 (k, n) or a kernel (k, n, kh, kw): output a k + c and input b n + d have w1[a, b] w2[c, d]."""

    w1: Tensor
    w2: Tensor
    outputs: Tensor | None = None  # (l k,): factors of the rows, for add_to
    inputs: Tensor | None = None  # (m n,): factors of the columns, for add_to

    def add_to(self, base: Tensor, x: Tensor, layer: nn.Linear | nn.Conv2d, scale: float = 1.0, drop=None) -> Tensor:
        places = conv_places(layer)
        axis = -1 if places is None else 1
        w1 = self.w1 * scale
        if self.inputs is not None:
            x = (x * along(self.inputs, x.dim(), axis)).to(x.dtype)
        start = base if self.outputs is None else torch.zeros_like(base)
        with torch.autocast(x.device.type, enabled=False):
            w2 = self.w2 if places is not None else self.w2.flatten(1)
            result = add_kronecker(start, x, w1, w2) if places is None else add_kronecker_conv(start, x, w1, w2, *places[:2])
        return result if self.outputs is None else base + (result * along(self.outputs, x.dim(), axis)).to(base.dtype)

    def with_layer(self, x: Tensor, layer: nn.Linear | nn.Conv2d, scale: float) -> None:
        return None

    def stretched_layer(self, x: Tensor, layer: nn.Linear | nn.Conv2d, scale: float, excess: Tensor, axis: str) -> None:
        return None

    def scaled(self, outputs: Tensor | None = None, inputs: Tensor | None = None) -> "Kronecker":
        def both(one, other):
            return other if one is None else one if other is None else one * other

        return replace(self, outputs=both(self.outputs, outputs), inputs=both(self.inputs, inputs))

    def growth(self, weight: Tensor, axis: str, scale: float) -> Tensor:
        squares = (slice_sums(self.w1.float().square(), axis)[:, None] * slice_sums(self.w2.float().square(), axis)).flatten()
        return 2 * scale * self._inner(weight, axis) + scale**2 * squares

    def _inner(self, weight: Tensor, axis: str) -> Tensor:
        """Sums of w1[a, b] w2[c, d] W[a, c, b, d], by w1 first."""

        def build(w1: Tensor, w2: Tensor) -> Tensor:
            blocks = weight.reshape(w1.shape[0], w2.shape[0], w1.shape[1], -1).float()  # the last axis: n and the kernel
            if axis == OUTPUT:
                return ((w1[:, None, None, :] @ blocks).squeeze(2) * w2).sum(-1).flatten()
            columns = ((blocks * w1[:, None, :, None]).sum(0) * w2[:, None, :]).sum(0)
            return columns.view(weight.shape[1], -1).sum(1)

        return recomputed(build, self.w1.float(), self.w2.float().flatten(1))

    def norm(self) -> Tensor:
        return self.w1.float().norm() * self.w2.float().norm()

    def dense(self) -> Tensor:
        return kronecker(self.w1.float(), self.w2.float())


Change = LowRank | Hadamard | Kronecker


def kronecker(first: Tensor, second: Tensor) -> Tensor:
    """first (l, m) and second (k, n, ...) -> (l k, m n, ...)."""
    product = torch.einsum("lm,kn...->lkmn...", first, second)
    return product.reshape(first.shape[0] * second.shape[0], first.shape[1] * second.shape[1], *second.shape[2:])


def low_rank_is_cheaper(rank: int, shape: tuple[int, ...], products: int = 1) -> bool:
    """Whether `products` times two products of rank² are less work than one with a weight of this shape."""
    out, inputs = shape[0], math.prod(shape[1:])
    return products * rank**2 * (out + inputs) < out * inputs


class _InnerLowRank(torch.autograd.Function):
    """<W, D> by slices of a low-rank D: per row sum((W downᵀ) * up), per column sum((upᵀ W) * down), with one product with W each way."""

    @staticmethod
    def forward(ctx, weight, down, up, axis):
        matrix, flat = weight.flatten(1).float(), down.flatten(1)
        product = matrix @ flat.t() if axis == OUTPUT else up.t() @ matrix
        ctx.save_for_backward(weight, down, up, product)
        ctx.axis = axis
        return (product * up).sum(1) if axis == OUTPUT else slice_sums(product.view(down.shape) * down, INPUT)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        weight, down, up, product = ctx.saved_tensors
        matrix = weight.flatten(1).float()
        if ctx.axis == OUTPUT:
            return None, ((up * grad[:, None]).t() @ matrix).view(down.shape), product * grad[:, None], None
        by_input = along(grad, down.dim(), 1)
        return None, product.view(down.shape) * by_input, matrix @ (down * by_input).flatten(1).t(), None
