"""Linear layers that read one input, such as q, k and v, with their LoRA: one product for all layers, one for all downs, one for all ups.

The plain torch form is `linear_with_low_rank` of library.kernels.low_rank for each layer by itself. Here x is read twice in place of
twice per layer, and its gradient is summed inside the matrix products. All layers have one output size and one rank.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def stacked_linear_with_low_rank(
    x: Tensor, weight: Tensor, down: Tensor, up: Tensor, leaves: Sequence[Tensor], scale: float, mask: Tensor | None = None
) -> tuple[Tensor, ...]:
    """The outputs (..., out) of n layers without bias, each with scale * up(mask * down(x)) in it; views of one tensor.

    x (..., in); weight (n * out, in) frozen; down (n * rank, in); up (n, out, rank): all in x's dtype. mask: broadcasts to
    (..., n * rank). leaves: the n downs, then the n ups, as autograd knows them; they must lie in `down` and `up`, in this order.
    """
    return _Stacked.apply(x, weight, down.detach(), up.detach(), scale, mask, *leaves)


def by_layer(rows: Tensor, count: int) -> Tensor:
    """(N, count * size) as (count, N, size), a view."""
    return rows.view(rows.shape[0], count, -1).transpose(0, 1)


class _Stacked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, down, up, scale, mask, *leaves):
        count = up.shape[0]
        rows = x.reshape(-1, x.shape[-1])
        y = rows @ weight.t()
        hidden = rows @ down.t()
        if mask is not None:
            mask = mask.expand(*x.shape[:-1], hidden.shape[-1]).reshape(hidden.shape)
            hidden = hidden * mask
        by_layer(y, count).baddbmm_(by_layer(hidden, count), up.mT, alpha=scale)
        ctx.save_for_backward(rows, hidden, weight, down, up, mask)
        ctx.scale = scale
        return y.view(*x.shape[:-1], -1).chunk(count, dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        rows, hidden, weight, down, up, mask = ctx.saved_tensors
        count = up.shape[0]
        trained = ctx.needs_input_grad[6:]
        grad = torch.cat([grad.reshape(rows.shape[0], -1) for grad in grads], dim=1)
        grad_leaves: list[Tensor | None] = [None] * (2 * count)
        grad_x = None
        if any(trained[count:]):
            grad_up = torch.empty_like(up).baddbmm_(by_layer(grad, count).mT, by_layer(hidden, count), beta=0, alpha=ctx.scale)
            grad_leaves[count:] = grad_up
        if ctx.needs_input_grad[0] or any(trained[:count]):
            grad_hidden = torch.empty_like(hidden)
            by_layer(grad_hidden, count).baddbmm_(by_layer(grad, count), up, beta=0, alpha=ctx.scale)
            if mask is not None:
                grad_hidden = grad_hidden * mask
        if any(trained[:count]):
            grad_leaves[:count] = (grad_hidden.t() @ rows).chunk(count)
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight).addmm_(grad_hidden, down).view(*grads[0].shape[:-1], -1)
        return grad_x, None, None, None, None, None, *grad_leaves
