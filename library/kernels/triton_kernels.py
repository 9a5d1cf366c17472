"""Triton kernels for norms and gates in half precision: everything inside is fp32, only what is read and written is rounded.

Imported where a GPU is about to run them, or Triton's interpreter; library.kernels.pointwise holds the plain torch forms beside them.
Norm weights count as frozen: there are no gradients for them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 8192  # numbers of a group that one program of a group norm has in hand at a time
GATE_TILE = 1024


@triton.jit
def _normalised(values, shift, weight, bias, mean, rstd, HAS_SHIFT: tl.constexpr):
    """(x + shift) normalised, and the same with weight and bias, of one tile (channels, positions)."""
    if HAS_SHIFT:
        values += shift[:, None]
    unit = (values - mean) * rstd
    return unit, unit * weight[:, None] + bias[:, None]


@triton.jit
def _group_norm(
    x, shift, weight, bias, y, means, rstds, groups, group_size, positions, stride_b, stride_c, stride_p, eps,
    HAS_SHIFT: tl.constexpr, SILU: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """One program per sample and group: sums in one pass, relative to the group's first number, and a second pass to write."""
    program = tl.program_id(0)
    batch, group = program // groups, program % groups
    channel = tl.arange(0, BLOCK_C)
    inside = channel < group_size
    place = group * group_size + channel
    start = batch.to(tl.int64) * stride_b + (group * group_size).to(tl.int64) * stride_c
    pivot = tl.load(x + start).to(tl.float32)
    added = tl.zeros((BLOCK_C,), tl.float32)
    if HAS_SHIFT:
        added = tl.load(shift + batch * groups * group_size + place, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    squares = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for first in range(0, positions, BLOCK_P):
        position = first + tl.arange(0, BLOCK_P)
        mask = inside[:, None] & (position < positions)[None, :]
        values = tl.load(x + start + channel[:, None] * stride_c + position[None, :] * stride_p, mask=mask, other=0.0).to(tl.float32)
        away = tl.where(mask, values + added[:, None] - pivot, 0.0)
        total += away
        squares += away * away
    count = group_size * positions
    away_mean = tl.sum(tl.sum(total, 1), 0) / count
    variance = tl.sum(tl.sum(squares, 1), 0) / count - away_mean * away_mean
    mean = away_mean + pivot
    rstd = 1.0 / tl.sqrt(tl.maximum(variance, 0.0) + eps)
    tl.store(means + program, mean)
    tl.store(rstds + program, rstd)
    w = tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + place, mask=inside, other=0.0).to(tl.float32)
    for first in range(0, positions, BLOCK_P):
        position = first + tl.arange(0, BLOCK_P)
        mask = inside[:, None] & (position < positions)[None, :]
        offsets = start + channel[:, None] * stride_c + position[None, :] * stride_p
        values = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
        _, result = _normalised(values, added, w, b, mean, rstd, HAS_SHIFT)
        if SILU:
            result *= tl.sigmoid(result)
        tl.store(y + offsets, result.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _unit_gradient(grad, values, shift, weight, bias, mean, rstd, HAS_SHIFT: tl.constexpr, SILU: tl.constexpr):
    """The gradient at the normalised numbers of one tile, and these numbers."""
    unit, result = _normalised(values, shift, weight, bias, mean, rstd, HAS_SHIFT)
    if SILU:
        sigmoid = tl.sigmoid(result)
        grad *= sigmoid * (1.0 + result * (1.0 - sigmoid))
    return grad * weight[:, None], unit


@triton.jit
def _group_norm_backward(
    grad, x, shift, weight, bias, means, rstds, grad_x, groups, group_size, positions,
    stride_b, stride_c, stride_p, grad_b, grad_c, grad_p,
    HAS_SHIFT: tl.constexpr, SILU: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """grad_x = rstd * (g - mean(g) - unit * mean(g * unit)), g being the gradient at the normalised numbers `unit`."""
    program = tl.program_id(0)
    batch, group = program // groups, program % groups
    channel = tl.arange(0, BLOCK_C)
    inside = channel < group_size
    place = group * group_size + channel
    start = batch.to(tl.int64) * stride_b + (group * group_size).to(tl.int64) * stride_c
    grad_start = batch.to(tl.int64) * grad_b + (group * group_size).to(tl.int64) * grad_c
    mean, rstd = tl.load(means + program), tl.load(rstds + program)
    w = tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + place, mask=inside, other=0.0).to(tl.float32)
    added = tl.zeros((BLOCK_C,), tl.float32)
    if HAS_SHIFT:
        added = tl.load(shift + batch * groups * group_size + place, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    along = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for first in range(0, positions, BLOCK_P):
        position = first + tl.arange(0, BLOCK_P)
        mask = inside[:, None] & (position < positions)[None, :]
        values = tl.load(x + start + channel[:, None] * stride_c + position[None, :] * stride_p, mask=mask, other=0.0).to(tl.float32)
        g = tl.load(grad + grad_start + channel[:, None] * grad_c + position[None, :] * grad_p, mask=mask, other=0.0).to(tl.float32)
        g, unit = _unit_gradient(g, values, added, w, b, mean, rstd, HAS_SHIFT, SILU)
        total += g
        along += g * unit
    count = group_size * positions
    mean_gradient = tl.sum(tl.sum(total, 1), 0) / count
    mean_along = tl.sum(tl.sum(along, 1), 0) / count
    for first in range(0, positions, BLOCK_P):
        position = first + tl.arange(0, BLOCK_P)
        mask = inside[:, None] & (position < positions)[None, :]
        offsets = start + channel[:, None] * stride_c + position[None, :] * stride_p
        values = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
        g = tl.load(grad + grad_start + channel[:, None] * grad_c + position[None, :] * grad_p, mask=mask, other=0.0).to(tl.float32)
        g, unit = _unit_gradient(g, values, added, w, b, mean, rstd, HAS_SHIFT, SILU)
        result = rstd * (g - mean_gradient - unit * mean_along)
        tl.store(grad_x + offsets, result.to(grad_x.dtype.element_ty), mask=mask)


@triton.jit
def _unit_row(x, row, column, mask, width, eps):
    """One row normalised, and its 1 / standard deviation."""
    values = tl.load(x + row * width + column, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(values, 0) / width
    away = tl.where(mask, values - mean, 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(away * away, 0) / width + eps)
    return away * rstd, rstd


@triton.jit
def _layer_norm(x, weight, bias, y, width, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < width
    unit, _ = _unit_row(x, row, column, mask, width, eps)
    w = tl.load(weight + column, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + row * width + column, (unit * w + b).to(y.dtype.element_ty), mask=mask)


@triton.jit
def _layer_norm_backward(grad, x, weight, grad_x, width, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < width
    unit, rstd = _unit_row(x, row, column, mask, width, eps)
    w = tl.load(weight + column, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(grad + row * width + column, mask=mask, other=0.0).to(tl.float32) * w
    result = rstd * (g - tl.sum(g, 0) / width - unit * (tl.sum(g * unit, 0) / width))
    tl.store(grad_x + row * width + column, result.to(grad_x.dtype.element_ty), mask=mask)


@triton.jit
def _normal_share(gate):
    """The share of a normal distribution below `gate`."""
    return 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))


@triton.jit
def _geglu(x, y, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < width
    values = tl.load(x + row * 2 * width + column, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(x + row * 2 * width + width + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + row * width + column, (values * gate * _normal_share(gate)).to(y.dtype.element_ty), mask=mask)


@triton.jit
def _geglu_backward(grad, x, grad_x, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < width
    values = tl.load(x + row * 2 * width + column, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(x + row * 2 * width + width + column, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(grad + row * width + column, mask=mask, other=0.0).to(tl.float32)
    share = _normal_share(gate)
    slope = share + gate * tl.exp(-0.5 * gate * gate) * 0.3989422804014327
    tl.store(grad_x + row * 2 * width + column, (g * gate * share).to(grad_x.dtype.element_ty), mask=mask)
    tl.store(grad_x + row * 2 * width + width + column, (g * values * slope).to(grad_x.dtype.element_ty), mask=mask)


def even(x: Tensor) -> Tensor:
    """x (B, C, H, W) if its positions lie at even distances, as in contiguous and channels-last tensors; else a contiguous copy."""
    return x if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def position_strides(x: Tensor) -> tuple[int, int, int]:
    """Distances between samples, channels and positions of what `even` returned."""
    return x.stride(0), x.stride(1), 1 if x.is_contiguous() else x.shape[1]


def tiles(group_size: int, positions: int) -> dict[str, int]:
    """Channels and positions of a tile, powers of two, and the warps to work on it."""
    block_c = triton.next_power_of_2(group_size)
    block_p = min(max(TILE // block_c, 1), triton.next_power_of_2(positions))
    return {"BLOCK_C": block_c, "BLOCK_P": block_p, "num_warps": 16 if block_c * block_p >= TILE else 4}


def group_norm(
    x: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y like x, and mean and 1 / standard deviation of each sample's groups, (B * groups,) in fp32."""
    x = even(x)
    y = torch.empty_like(x)
    mean, rstd = torch.empty(2, x.shape[0] * groups, device=x.device, dtype=torch.float32)
    group_size, positions = x.shape[1] // groups, x.shape[2] * x.shape[3]
    _group_norm[(x.shape[0] * groups,)](
        x, x if shift is None else shift.contiguous(), weight, bias, y, mean, rstd,
        groups, group_size, positions, *position_strides(x), eps,
        HAS_SHIFT=shift is not None, SILU=silu, **tiles(group_size, positions),
    )  # fmt: skip
    return y, mean, rstd


def group_norm_backward(
    grad: Tensor, x: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, groups: int, silu: bool
) -> Tensor:
    """The gradient of x, and so of x + shift, in x's layout."""
    grad, x = even(grad), even(x)
    grad_x = torch.empty_like(x)
    group_size, positions = x.shape[1] // groups, x.shape[2] * x.shape[3]
    _group_norm_backward[(x.shape[0] * groups,)](
        grad, x, x if shift is None else shift.contiguous(), weight, bias, mean, rstd, grad_x,
        groups, group_size, positions, *position_strides(x), *position_strides(grad),
        HAS_SHIFT=shift is not None, SILU=silu, **tiles(group_size, positions),
    )  # fmt: skip
    return grad_x


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    width = x.shape[-1]
    _layer_norm[(x.numel() // width,)](x, weight, bias, y, width, eps, BLOCK=triton.next_power_of_2(width))
    return y


def layer_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    grad, x = grad.contiguous(), x.contiguous()
    grad_x = torch.empty_like(x)
    width = x.shape[-1]
    _layer_norm_backward[(x.numel() // width,)](grad, x, weight, grad_x, width, eps, BLOCK=triton.next_power_of_2(width))
    return grad_x


def geglu(x: Tensor) -> Tensor:
    x = x.contiguous()
    width = x.shape[-1] // 2
    y = x.new_empty(*x.shape[:-1], width)
    _geglu[(y.numel() // width, triton.cdiv(width, GATE_TILE))](x, y, width, BLOCK=GATE_TILE)
    return y


def geglu_backward(grad: Tensor, x: Tensor) -> Tensor:
    grad, x = grad.contiguous(), x.contiguous()
    grad_x = torch.empty_like(x)
    width = grad.shape[-1]
    _geglu_backward[(grad.numel() // width, triton.cdiv(width, GATE_TILE))](grad, x, grad_x, width, BLOCK=GATE_TILE)
    return grad_x
