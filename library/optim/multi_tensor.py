"""Sums over many tensors at once, as float64 scalars on the device: what the optimizers here share.

A LoRA has hundreds of small tensors. Working on lists of them costs a few kernels per step instead of a few per
tensor, and one read of a scalar by the host instead of one per tensor.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

CPU_PART = 2**18  # numbers: a MiB of float32


def products_sum(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Sum of all element products of two equally long lists of equal shapes, a float64 scalar."""
    if left[0].device.type == "cpu":  # no launches to save here, and a dot product needs no memory
        dots = [torch.dot(one.reshape(-1), other.reshape(-1)) for one, other in zip(left, right, strict=True)]
        return torch.stack(dots).sum(dtype=torch.float64)
    products = torch._foreach_mul(left, right)
    return torch.cat([product.reshape(-1) for product in products]).sum(dtype=torch.float64)


def absolute_sum(tensors: Sequence[Tensor]) -> Tensor:
    """Sum of all absolute values, a float64 scalar."""
    if tensors[0].device.type == "cpu":
        return torch.stack([tensor.abs().sum() for tensor in tensors]).sum(dtype=torch.float64)
    return torch.stack(torch._foreach_norm(tensors, 1)).sum(dtype=torch.float64)


def with_gradients(group: dict) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """The parameters of a group that have a gradient, and these gradients, in parts to be worked on one after the other.

    On a GPU all are one part. On the CPU a part is about what stays in its cache from one operation to the next.
    """
    part, size = [], 0
    for parameter in group["params"]:
        if parameter.grad is None:
            continue
        part.append(parameter)
        size += parameter.numel()
        if size >= CPU_PART and parameter.device.type == "cpu":
            yield part, [parameter.grad for parameter in part]
            part, size = [], 0
    if part:
        yield part, [parameter.grad for parameter in part]
