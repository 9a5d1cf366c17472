"""A frozen Linear layer, a low-rank change of it and a factor per channel as one autograd function (DoRA, arXiv:2402.09353).

    by input:   y = (W + s up down) (x * (1 + excess)) + bias
    by output:  y = (1 + excess) * (W + s up down) x + bias

The factors come as their distance from 1, which low precision holds where it would round 1 + excess away. Kept are x, the rank-sized
activations, and by output y, which the model mostly keeps as well.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from library.kernels.low_rank import like, scaled_product


def stretched(x: Tensor, excess: Tensor) -> Tensor:
    """x * (1 + excess) in x's dtype; excess broadcasts to x and is of any dtype."""
    return _Stretched.apply(x, excess)


def linear_stretched(
    x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float, excess: Tensor, *, by_input: bool
) -> Tensor:
    """x (..., in), weight (out, in), down (rank, in), up (out, rank), excess (in,) or (out,). Gradients flow to x, down, up, excess."""
    return _LinearStretched.apply(x, weight, bias, down, up, scale, excess, by_input)


def _times(rows: Tensor, excess: Tensor) -> Tensor:
    return torch.addcmul(rows, rows, excess.to(rows.dtype))


class _Stretched(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, excess):
        ctx.save_for_backward(x, excess)
        return _times(x, excess)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, excess = ctx.saved_tensors
        needs_x, needs_excess = ctx.needs_input_grad
        grad_excess = (grad * x).sum_to_size(excess.shape).to(excess.dtype) if needs_excess else None
        return _times(grad, excess) if needs_x else None, grad_excess


class _LinearStretched(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, down, up, scale, excess, by_input):
        dtype = x.dtype
        rows = x.reshape(-1, x.shape[-1])
        used = _times(rows, excess) if by_input else rows
        y = F.linear(used, weight.to(dtype), like(bias, dtype) if by_input else None)
        hidden = F.linear(used, down.to(dtype))
        y.addmm_(hidden, up.to(dtype).t(), alpha=scale)
        if not by_input:
            y = _times(y, excess)
            y = y if bias is None else y.add_(bias.to(dtype))
        y = y.view(*x.shape[:-1], y.shape[-1])
        ctx.save_for_backward(rows, hidden, None if by_input else y, weight, bias, down, up, excess)
        ctx.scale, ctx.by_input = scale, by_input
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        rows, hidden, y, weight, bias, down, up, excess = ctx.saved_tensors
        dtype = rows.dtype
        grad_rows = grad.reshape(-1, grad.shape[-1])
        if not ctx.by_input:
            grown = y.reshape(grad_rows.shape) if bias is None else y.reshape(grad_rows.shape) - bias.to(dtype)
            factor = 1 + excess
            inverse = torch.where(factor == 0, 0, 1 / factor)  # a slice without length has no output to learn from
            grad_excess = _sum_of_products(grad_rows, grown, excess.dtype) * inverse
            grad_rows = _times(grad_rows, excess)
        grad_up = scaled_product(grad_rows.t(), hidden, ctx.scale).to(up.dtype)
        grad_hidden = scaled_product(grad_rows, up.to(dtype), ctx.scale)
        grad_down = (grad_hidden.t() @ rows).to(down.dtype)
        grad_x = None
        if ctx.by_input or ctx.needs_input_grad[0]:
            grad_x = (grad_rows @ weight.to(dtype)).addmm_(grad_hidden, down.to(dtype))
        if ctx.by_input:
            grad_down = _times(grad_down, excess)
            grad_excess = _sum_of_products(grad_x, rows, excess.dtype)
            grad_x = _times(grad_x, excess)
        return None if grad_x is None else grad_x.view(*grad.shape[:-1], -1), None, None, grad_down, grad_up, None, grad_excess, None


def _sum_of_products(one: Tensor, other: Tensor, dtype: torch.dtype) -> Tensor:
    """Column sums of one * other, added up in `dtype`."""
    return (one * other).sum(0, dtype=dtype)
