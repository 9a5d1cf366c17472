"""Products with a matrix that is built for the moment: only what it is built from is kept for backward, never the matrix itself.

The matrix is a layer's weight change, in x out numbers made from few. `build` is a pure function of its tensors; it runs once in
forward and once more in backward, without autocast, so that nothing in it is rounded.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Build = Callable[..., Tensor]
Places = tuple[Sequence[int], Sequence[int], Sequence[int], int]  # stride, padding, dilation and groups of a convolution


def add_product(base: Tensor, x: Tensor, build: Build, factors: Sequence[Tensor], places: Places | None) -> Tensor:
    """base + what a layer without bias makes of x with the weight build(*factors), rounded to x's dtype.

    x (..., in) and base (..., out) with a weight (out, in) if places is None; else x (B, in, H, W) and a weight (out, in, kh, kw).
    """
    return _AddProduct.apply(build, places, base, x, *factors)


def folded_linear(x: Tensor, weight: Tensor, bias: Tensor | None, build: Build, factors: Sequence[Tensor]) -> Tensor:
    """x (weight + build(*factors))ᵀ + bias in fp32: three products a step where layer and change apart take five.

    x (..., in), weight (out, in) frozen. In lower precision the sum would round the change away.
    """
    return _FoldedLinear.apply(build, x, weight, bias, *factors)


def recomputed(build: Build, *factors: Tensor) -> Tensor:
    """build(*factors), with nothing kept for backward but the factors."""
    return _Recomputed.apply(build, *factors)


def rebuild(build: Build, factors: Sequence[Tensor], needed: Sequence[bool]) -> tuple[Tensor, list[Tensor]]:
    """build(*factors) with a graph that ends at copies of the factors that are `needed`, and these copies."""
    leaves = [factor.detach().requires_grad_(need) for factor, need in zip(factors, needed, strict=True)]
    with torch.enable_grad(), torch.autocast(factors[0].device.type, enabled=False):
        return build(*leaves), [leaf for leaf in leaves if leaf.requires_grad]


def spread(gradients: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor | None]:
    """The gradients in the places where one is needed, None elsewhere."""
    rest = iter(gradients)
    return [next(rest) if need else None for need in needed]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, build, *factors):
        ctx.build = build
        ctx.save_for_backward(*factors)
        with torch.autocast(factors[0].device.type, enabled=False):
            return build(*factors)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        needed = ctx.needs_input_grad[1:]
        result, leaves = rebuild(ctx.build, ctx.saved_tensors, needed)
        return None, *spread(torch.autograd.grad(result, leaves, grad), needed)


class _AddProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, build, places, base, x, *factors):
        ctx.build, ctx.places = build, places
        ctx.save_for_backward(x, *factors)
        with torch.autocast(x.device.type, enabled=False):
            weight = build(*factors).to(x.dtype)
            if places is None:
                rows = base.reshape(-1, base.shape[-1]).to(x.dtype)
                return torch.addmm(rows, x.reshape(-1, x.shape[-1]), weight.t()).view(base.shape)
            return base + F.conv2d(x, weight, None, *places)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, *factors = ctx.saved_tensors
        needs_base, needs_x, *needed = ctx.needs_input_grad[2:]
        built, leaves = rebuild(ctx.build, factors, needed)
        weight = built.detach().to(x.dtype)
        grad = grad.to(x.dtype)
        if ctx.places is None:
            rows = grad.reshape(-1, grad.shape[-1])
            grad_x = (rows @ weight).view(x.shape) if needs_x else None
            grad_weight = rows.t() @ x.reshape(-1, x.shape[-1]) if leaves else None
        else:
            grad_x, grad_weight = _conv_gradients(grad, x, weight, ctx.places, needs_x, bool(leaves))
        gradients = torch.autograd.grad(built, leaves, grad_weight.to(built.dtype)) if leaves else ()
        return None, None, grad if needs_base else None, grad_x, *spread(gradients, needed)


class _FoldedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, build, x, weight, bias, *factors):
        ctx.build = build
        ctx.save_for_backward(x, weight, *factors)
        return F.linear(x, weight + build(*factors), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, *factors = ctx.saved_tensors
        needs_x, needed = ctx.needs_input_grad[1], ctx.needs_input_grad[4:]
        built, leaves = rebuild(ctx.build, factors, needed)
        rows = grad.reshape(-1, grad.shape[-1])
        gradients = torch.autograd.grad(built, leaves, rows.t() @ x.reshape(-1, x.shape[-1])) if leaves else ()
        grad_x = (rows @ (weight + built.detach())).view(x.shape) if needs_x else None
        return None, grad_x, None, None, *spread(gradients, needed)


def _conv_gradients(grad: Tensor, x: Tensor, weight: Tensor, places: Places, needs_x: bool, needs_weight: bool) -> tuple:
    stride, padding, dilation, groups = places
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, dilation, False, (0, 0), groups, (needs_x, needs_weight, False)
    )[:2]
