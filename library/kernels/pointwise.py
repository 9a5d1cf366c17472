"""Norms and gates of the U-Net: plain torch, or one Triton kernel each way in half precision, chosen here.

On a GPU under autocast torch casts to fp32 for a norm and back for what follows, each a pass over memory; the kernels compute in fp32
too, but read and write half precision. They are operators of torch's own kind, so fake tensors see each as one operation.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from library.kernels import triton_here
from library.kernels.layout import HALF
from library.kernels.recompute import CheapOutputs

TOLERANCE = 0.02  # of a norm: three times what bf16 rounds in these operations
NORM = "Tensor weight, Tensor bias"
SIGNATURES = {
    "group_norm": f"(Tensor x, Tensor? shift, {NORM}, int groups, float eps, bool silu) -> (Tensor, Tensor, Tensor)",
    "group_norm_backward": f"(Tensor grad, Tensor x, Tensor? shift, {NORM}, Tensor mean, Tensor rstd, int groups, bool silu) -> Tensor",
    "layer_norm": f"(Tensor x, {NORM}, float eps) -> Tensor",
    "layer_norm_backward": "(Tensor grad, Tensor x, Tensor weight, float eps) -> Tensor",
    "geglu": "(Tensor x) -> Tensor",
    "geglu_backward": "(Tensor grad, Tensor x) -> Tensor",
}
SHAPES: dict[str, Callable] = {
    "group_norm": lambda x, shift, weight, bias, groups, *_: (torch.empty_like(x), *torch.empty(2, len(x) * groups, device=x.device)),
    "group_norm_backward": lambda grad, x, *_: torch.empty_like(x),
    "layer_norm": lambda x, *_: x.new_empty(x.shape),
    "layer_norm_backward": lambda grad, x, *_: x.new_empty(x.shape),
    "geglu": lambda x: x.new_empty(*x.shape[:-1], x.shape[-1] // 2),
    "geglu_backward": lambda grad, x: x.new_empty(x.shape),
}


def kernel_operators() -> torch.library.Library:
    """Makes the kernels operators of torch, `torch.ops.lora_kernels`, which also know the shapes of their results."""
    operators = torch.library.Library("lora_kernels", "DEF")
    for name, signature in SIGNATURES.items():
        operators.define(name + signature)
        for device in ("CUDA", "CPU"):  # on the CPU in Triton's interpreter
            operators.impl(name, functools.partial(run_kernel, name), device)
        torch.library.register_fake(f"lora_kernels::{name}", SHAPES[name], lib=operators)
    return operators


def run_kernel(name: str, *arguments):
    from library.kernels import triton_kernels

    return getattr(triton_kernels, name)(*arguments)


OPERATORS = kernel_operators()
kernels = torch.ops.lora_kernels


@dataclass(frozen=True)
class Pointwise:
    """The norms and gates of one U-Net. fused: by kernels where the numbers are half precision and the norm's weights are frozen.

    cheap: is told each output, with selective checkpointing.
    """

    fused: bool = False
    cheap: CheapOutputs | None = None

    def group_norm(self, x: Tensor, norm: nn.GroupNorm, *, silu: bool = False, shift: Tensor | None = None) -> Tensor:
        """norm(x + shift), with SiLU after it if asked for. x (B, C, H, W); shift (B, C)."""
        if self._fuses(x, norm):
            return self._noted(_GroupNorm.apply, x, shift, norm.weight, norm.bias, norm.num_groups, norm.eps, silu)
        if shift is not None:
            x = x + shift[:, :, None, None]
        settings = (norm.num_groups, norm.weight, norm.bias, norm.eps)
        normalised = self._noted(F.group_norm, x, *settings)
        return self._note(F.silu(normalised), group_norm_and_silu, x, *settings) if silu else normalised

    def layer_norm(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """norm(x), over the last axis of x (..., D)."""
        if self._fuses(x, norm):
            return self._noted(_LayerNorm.apply, x, norm.weight, norm.bias, norm.eps)
        return self._noted(F.layer_norm, x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)

    def geglu(self, x: Tensor) -> Tensor:
        """The first half of x (..., 2 D) times GELU of the second (arXiv:2002.05202)."""
        if self._fuses(x):
            return self._noted(_GEGLU.apply, x)
        values, gate = x.chunk(2, dim=-1)
        return self._note(values * self._noted(F.gelu, gate), values_times_gelu, values, gate)

    def _noted(self, compute: Callable[..., Tensor], *inputs) -> Tensor:
        return self._note(compute(*inputs), compute, *inputs)

    def _note(self, output: Tensor, compute: Callable[..., Tensor], *inputs) -> Tensor:
        if self.cheap is None or torch.compiler.is_compiling():
            return output
        return self.cheap.note(output, compute, *inputs)

    def _fuses(self, x: Tensor, norm: nn.Module | None = None) -> bool:
        if not self.fused or x.dtype not in HALF or torch.compiler.is_compiling():  # the compiler fuses plain torch by itself
            return False
        return norm is None or (norm.weight is not None and norm.bias is not None and not norm.weight.requires_grad)


def group_norm_and_silu(x: Tensor, *settings) -> Tensor:
    return F.silu(F.group_norm(x, *settings))


def values_times_gelu(values: Tensor, gate: Tensor) -> Tensor:
    return values * F.gelu(gate)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, shift, weight, bias, groups, eps, silu):
        y, mean, rstd = kernels.group_norm(x, shift, weight, bias, groups, eps, silu)
        ctx.save_for_backward(x, shift, weight, bias, mean, rstd)
        ctx.groups, ctx.silu = groups, silu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, shift, weight, bias, mean, rstd = ctx.saved_tensors
        grad_x = kernels.group_norm_backward(grad, x, shift, weight, bias, mean, rstd, ctx.groups, ctx.silu)
        grad_shift = grad_x.sum((2, 3)).to(shift.dtype) if ctx.needs_input_grad[1] else None
        return grad_x, grad_shift, None, None, None, None, None


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return kernels.layer_norm(x, weight, bias, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return kernels.layer_norm_backward(grad, *ctx.saved_tensors, ctx.eps), None, None, None


class _GEGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return kernels.geglu(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return kernels.geglu_backward(grad, *ctx.saved_tensors)


def kernels_for(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels run on `device` in `dtype`, tried out."""
    return dtype in HALF and triton_here.may_run(device, dtype) and trial(device, dtype)


def trial(device: torch.device, dtype: torch.dtype) -> bool:
    """Runs each kernel both ways on a few numbers; where one fails or gives other numbers than plain torch, says why in one line."""
    return triton_here.runs(functools.partial(compare, device, dtype), "norms and gates are computed by plain torch")


def compare(device: torch.device, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(shape, generator=generator).to(device, dtype) for shape in ((2, 4, 3, 6), (2, 4, 3, 3)))
    norm = nn.GroupNorm(2, 4).to(device, dtype).requires_grad_(False)
    rows = nn.LayerNorm(6).to(device, dtype).requires_grad_(False)
    answers = []
    for form in (Pointwise(fused=False), Pointwise(fused=True)):
        leaf = x.clone().requires_grad_()
        result = form.geglu(form.layer_norm(form.group_norm(leaf, norm, silu=True), rows))
        answers.append((result, *torch.autograd.grad(result, leaf, gradient)))
    for expected, found in zip(*answers, strict=True):
        if not (found - expected).float().norm() <= TOLERANCE * expected.float().norm():
            raise RuntimeError(f"its numbers in {dtype} are not those of plain torch")
