"""bf16 products on processors that have no bf16 arithmetic.

There torch multiplies bf16 tensors element by element: a convolution takes over a hundred times as long as in fp32. Here operands are
widened, multiplied in fp32, and the result is rounded once, which is what bf16 hardware computes too.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default,
    aten.bmm.default,
    aten.addmm.default,
    aten.baddbmm.default,
    aten.convolution.default,
    aten.convolution_backward.default,
}
INTO_FIRST = {aten.addmm_.default: aten.addmm.default, aten.baddbmm_.default: aten.baddbmm.default}


class ProductsInFp32(TorchDispatchMode):
    """While active, matrix products and convolutions of bf16 tensors on the CPU are computed in fp32 and rounded to bf16."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in PRODUCTS and is_bf16_on_cpu(args[0]):
            return rounded(func(*(widened(value) for value in args), **kwargs))
        if func in INTO_FIRST and is_bf16_on_cpu(args[0]):
            return args[0].copy_(INTO_FIRST[func](*(widened(value) for value in args), **kwargs))
        return func(*args, **kwargs)


@contextmanager
def fast_bf16_on_cpu(*, wanted: bool) -> Iterator[bool]:
    """In the body bf16 products are fast, also where the processor lacks them. wanted: bf16 is used, and on the CPU.

    Gives whether that took the detour over fp32.
    """
    if not wanted or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        yield False
        return
    with ProductsInFp32():
        yield True


def is_bf16_on_cpu(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bfloat16 and value.device.type == "cpu"


def widened(value: object) -> object:
    return value.float() if is_bf16_on_cpu(value) else value


def rounded(result: object) -> object:
    """bf16 of the tensor, or of each tensor of a tuple that may hold None."""
    if isinstance(result, tuple):
        return tuple(rounded(part) for part in result)
    return result.bfloat16() if isinstance(result, Tensor) else result
