"""A frozen layer and its LoRA as one autograd function: y = layer(x) + scale * up(mask * down(x)) (arXiv:2106.09685).

The layer's output is written once and the up-projection accumulates into it inside the matrix product, `scale` included; `mask` works on
the rank-sized activations; x is kept once for both. The plain torch form is `layer(x) + scale * F.linear(mask * F.linear(x, down), up)`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Pair = tuple[int, int]


def linear_with_low_rank(
    x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float, mask: Tensor | None = None
) -> Tensor:
    """x (..., in) in the dtype of the computation; weight (out, in), bias (out) frozen, of any dtype; down (rank, in), up (out, rank).

    mask: broadcasts to (..., rank); dropout with its rescaling. Gradients flow to x, down and up, in each one's own dtype.
    """
    return _Linear.apply(x, weight, bias, down, up, scale, mask)


def conv_with_low_rank(
    x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float, mask: Tensor | None = None,
    *, stride: Pair, padding: Pair,
) -> Tensor:  # fmt: skip
    """x (B, in, H, W); weight (out, in, kh, kw); down (rank, in, kh, kw) moves as the layer does, up (out, rank, 1, 1) mixes channels."""
    return _Conv.apply(x, weight, bias, down, up, scale, mask, (stride, padding))


def scaled_product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale * a @ b for matrices, in one kernel."""
    return a.new_empty(a.shape[0], b.shape[1]).addmm_(a, b, beta=0, alpha=scale)


def like(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, down, up, scale, mask):
        dtype = x.dtype
        rows = x.reshape(-1, x.shape[-1])
        low_down, low_up = down.to(dtype), up.to(dtype)
        y = F.linear(rows, weight.to(dtype), like(bias, dtype))
        hidden = F.linear(rows, low_down)
        if mask is not None:
            mask = mask.expand(*x.shape[:-1], hidden.shape[-1]).reshape(hidden.shape)
            hidden = hidden * mask
        y.addmm_(hidden.to(dtype), low_up.t(), alpha=scale)
        ctx.save_for_backward(rows, hidden, weight, down, up, mask)
        ctx.scale = scale
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        rows, hidden, weight, down, up, mask = ctx.saved_tensors
        dtype = rows.dtype
        needs_x, needs_down, needs_up = ctx.needs_input_grad[0], ctx.needs_input_grad[3], ctx.needs_input_grad[4]
        grad_rows = grad.reshape(-1, grad.shape[-1])
        grad_x = grad_down = grad_up = None
        if needs_up:
            grad_up = scaled_product(grad_rows.t(), hidden, ctx.scale).to(up.dtype)
        if needs_x or needs_down:
            grad_hidden = scaled_product(grad_rows, up.to(dtype), ctx.scale)
            if mask is not None:
                grad_hidden = (grad_hidden * mask).to(dtype)
        if needs_down:
            grad_down = (grad_hidden.t() @ rows).to(down.dtype)
        if needs_x:
            grad_x = grad_rows @ weight.to(dtype)
            grad_x = grad_x.addmm_(grad_hidden, down.to(dtype)).view(*grad.shape[:-1], -1)
        return grad_x, None, None, grad_down, grad_up, None, None


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, down, up, scale, mask, places):
        dtype = x.dtype
        y = F.conv2d(x, weight.to(dtype), like(bias, dtype), *places)
        hidden = F.conv2d(x, down.to(dtype), None, *places)
        if mask is not None:
            hidden = (hidden * mask).to(dtype)
        mix_into(y, up.to(dtype).flatten(1), hidden, scale)
        ctx.save_for_backward(x, hidden, weight, down, up, mask)
        ctx.scale, ctx.places = scale, places
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, hidden, weight, down, up, mask = ctx.saved_tensors
        dtype = x.dtype
        needs_x, needs_down, needs_up = ctx.needs_input_grad[0], ctx.needs_input_grad[3], ctx.needs_input_grad[4]
        grad_x = grad_down = grad_up = None
        if needs_up:
            grad_up = (channel_product(grad, hidden) * ctx.scale).view(up.shape).to(up.dtype)
        if needs_x or needs_down:
            grad_hidden = torch.empty_like(hidden)
            mix_into(grad_hidden, up.to(dtype).flatten(1).t(), grad, ctx.scale, beta=0)
            if mask is not None:
                grad_hidden = (grad_hidden * mask).to(dtype)
            grad_x, grad_down = conv_backward(grad_hidden, x, down.to(dtype), ctx.places, needs_x, needs_down)
            if needs_down:  # in the layout of `down`, so that all gradients of a network can be copied in one go
                grad_down = grad_down.flatten(1).view(down.shape).to(down.dtype)
        if needs_x:
            grad_x = grad_x + conv_backward(grad, x, weight.to(dtype), ctx.places, True, False)[0]
        return grad_x, None, None, grad_down, grad_up, None, None, None


def mix_into(y: Tensor, matrix: Tensor, x: Tensor, scale: float, beta: float = 1) -> None:
    """y = beta * y + scale * (matrix applied to the channels of x), in place. y (B, out, H, W); matrix (out, in); x (B, in, H, W)."""
    if y.is_contiguous(memory_format=torch.channels_last) and not y.is_contiguous():
        rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        y.permute(0, 2, 3, 1).view(-1, y.shape[1]).addmm_(rows, matrix.t(), alpha=scale, beta=beta)
        return
    batch = matrix.expand(x.shape[0], *matrix.shape)
    y.flatten(2).baddbmm_(batch, x.flatten(2), alpha=scale, beta=beta)


def channel_product(grad: Tensor, x: Tensor) -> Tensor:
    """Sum over batch and places of grad xᵀ: (out, in) from grad (B, out, H, W) and x (B, in, H, W)."""
    return torch.bmm(grad.flatten(2), x.flatten(2).mT).sum(0)


def conv_backward(grad: Tensor, x: Tensor, weight: Tensor, places, needs_x: bool, needs_weight: bool) -> tuple:
    """Gradients of a convolution without bias with respect to its input and its weight, None where not needed."""
    stride, padding = places
    grads = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1, (needs_x, needs_weight, False)
    )
    return grads[0] if needs_x else None, grads[1] if needs_weight else None
