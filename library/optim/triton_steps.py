"""Triton kernels of our optimizers' steps: all tensors of a step in one launch, each number read and written once.

Imported where a GPU is about to run them, or Triton's interpreter; the plain torch form of each stands in its optimizer's file. A kernel
takes its tensors by their addresses, asked for anew at each step. Arithmetic is fp32. `unless`: where it is 1 nothing is written.
"""

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048  # numbers that one program works on
DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@triton.jit
def _place(blocks, sizes, BLOCK: tl.constexpr):
    """Which tensor this program works on, and on which of its numbers."""
    program = tl.program_id(0)
    tensor = tl.load(blocks + 2 * program)
    offsets = tl.load(blocks + 2 * program + 1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return tensor, offsets, offsets < tl.load(sizes + tensor)


@triton.jit
def _numbers(addresses, row, tensor, count, offsets, mask, DTYPE: tl.constexpr):
    """Where the numbers of a tensor of the list `row` lie, and the numbers; zeros where the list has no tensor."""
    address = tl.load(addresses + row * count + tensor)
    places = address.to(tl.pointer_type(DTYPE)) + offsets
    return places, tl.load(places, mask=mask & (address != 0), other=0.0).to(tl.float32)


@triton.jit
def _sign(values):
    return tl.where(values > 0, 1.0, tl.where(values < 0, -1.0, 0.0))


@triton.jit
def _add_up(sums, first, second):
    """Leaves this program's two sums where the host side adds those of all programs."""
    program = tl.program_id(0)
    tl.store(sums + 2 * program, tl.sum(first, 0))
    tl.store(sums + 2 * program + 1, tl.sum(second, 0))


@triton.jit
def _lion(addresses, count, blocks, sizes, unless, scalars, sums, beta1, beta2, decay, DTYPE: tl.constexpr, BLOCK: tl.constexpr):
    tensor, offsets, mask = _place(blocks, sizes, BLOCK)
    p_places, p = _numbers(addresses, 0, tensor, count, offsets, mask, DTYPE)
    _, g = _numbers(addresses, 1, tensor, count, offsets, mask, DTYPE)
    m_places, m = _numbers(addresses, 2, tensor, count, offsets, mask, DTYPE)
    rate = tl.load(scalars)
    mask = mask & (tl.load(unless).to(tl.int32) != 1)
    update = _sign(beta1 * m + (1.0 - beta1) * g)
    tl.store(p_places, (p - rate * (update + decay * p)).to(DTYPE), mask=mask)
    tl.store(m_places, (m + (1.0 - beta2) * (g - m)).to(DTYPE), mask=mask)


@triton.jit
def _dadapt_lion(
    addresses, count, blocks, sizes, unless, scalars, sums, beta1, beta2, sqrt_beta2, decay, DTYPE: tl.constexpr, BLOCK: tl.constexpr
):
    tensor, offsets, mask = _place(blocks, sizes, BLOCK)
    p_places, p = _numbers(addresses, 0, tensor, count, offsets, mask, DTYPE)
    _, g = _numbers(addresses, 1, tensor, count, offsets, mask, DTYPE)
    m_places, m = _numbers(addresses, 2, tensor, count, offsets, mask, DTYPE)
    s_places, s = _numbers(addresses, 3, tensor, count, offsets, mask, DTYPE)
    step_size = tl.load(scalars)
    update = _sign(beta1 * m + (1.0 - beta1) * g)
    new_s = s + (1.0 - sqrt_beta2) * (step_size * update - s)
    _add_up(sums, update * s, tl.abs(new_s))  # outside of the tensor all is 0
    mask = mask & (tl.load(unless).to(tl.int32) != 1)
    tl.store(p_places, (p - step_size * (update + decay * p)).to(DTYPE), mask=mask)
    tl.store(m_places, (m + (1.0 - beta2) * (step_size * g - m)).to(DTYPE), mask=mask)
    tl.store(s_places, new_s.to(DTYPE), mask=mask)


@triton.jit
def _dadapt_adam_averages(
    addresses, count, blocks, sizes, unless, scalars, sums, beta1, beta2, sqrt_beta2, eps, scale, DTYPE: tl.constexpr, BLOCK: tl.constexpr
):
    tensor, offsets, mask = _place(blocks, sizes, BLOCK)
    _, g = _numbers(addresses, 0, tensor, count, offsets, mask, DTYPE)
    m_places, m = _numbers(addresses, 1, tensor, count, offsets, mask, DTYPE)
    v_places, v = _numbers(addresses, 2, tensor, count, offsets, mask, DTYPE)
    s_places, s = _numbers(addresses, 3, tensor, count, offsets, mask, DTYPE)
    change = tl.load(scalars) * g
    new_s = s + (1.0 - sqrt_beta2) * (change - s)
    along = tl.where(mask, g * s / (tl.sqrt(v) + eps), 0.0)  # outside of the tensor, with an eps of 0, it is 0 / 0
    _add_up(sums, along, tl.abs(new_s))
    mask = mask & (tl.load(unless).to(tl.int32) != 1)
    tl.store(v_places, (v + (1.0 - beta2) * (g * g - v)).to(DTYPE), mask=mask)
    tl.store(s_places, new_s.to(DTYPE), mask=mask)
    tl.store(m_places, (m + (1.0 - beta1) * (scale * change - m)).to(DTYPE), mask=mask)


@triton.jit
def _dadapt_adam_move(addresses, count, blocks, sizes, unless, scalars, sums, eps, decay, DTYPE: tl.constexpr, BLOCK: tl.constexpr):
    tensor, offsets, mask = _place(blocks, sizes, BLOCK)
    p_places, p = _numbers(addresses, 0, tensor, count, offsets, mask, DTYPE)
    _, m = _numbers(addresses, 1, tensor, count, offsets, mask, DTYPE)
    _, v = _numbers(addresses, 2, tensor, count, offsets, mask, DTYPE)
    mask = mask & (tl.load(unless).to(tl.int32) != 1)
    change = m / (tl.sqrt(v) + eps) + decay * tl.load(scalars) * p
    tl.store(p_places, (p - change).to(DTYPE), mask=mask)


@triton.jit
def _prodigy_averages(
    addresses, count, blocks, sizes, unless, scalars, sums, beta1, beta2, beta3, DTYPE: tl.constexpr, BLOCK: tl.constexpr
):
    tensor, offsets, mask = _place(blocks, sizes, BLOCK)
    _, p = _numbers(addresses, 0, tensor, count, offsets, mask, DTYPE)
    _, g = _numbers(addresses, 1, tensor, count, offsets, mask, DTYPE)
    _, start = _numbers(addresses, 2, tensor, count, offsets, mask, DTYPE)
    m_places, m = _numbers(addresses, 3, tensor, count, offsets, mask, DTYPE)
    v_places, v = _numbers(addresses, 4, tensor, count, offsets, mask, DTYPE)
    s_places, s = _numbers(addresses, 5, tensor, count, offsets, mask, DTYPE)
    change = tl.load(scalars) * g
    new_s = beta3 * s + tl.load(scalars + 1) * g
    _add_up(sums, g * (start - p), tl.abs(new_s))
    mask = mask & (tl.load(unless).to(tl.int32) != 1)
    tl.store(m_places, (m + (1.0 - beta1) * (change - m)).to(DTYPE), mask=mask)
    tl.store(v_places, (v + (1.0 - beta2) * (change * change - v)).to(DTYPE), mask=mask)
    tl.store(s_places, new_s.to(DTYPE), mask=mask)


@triton.jit
def _prodigy_move(addresses, count, blocks, sizes, unless, scalars, sums, decay, DTYPE: tl.constexpr, BLOCK: tl.constexpr):
    tensor, offsets, mask = _place(blocks, sizes, BLOCK)
    p_places, p = _numbers(addresses, 0, tensor, count, offsets, mask, DTYPE)
    _, m = _numbers(addresses, 1, tensor, count, offsets, mask, DTYPE)
    _, v = _numbers(addresses, 2, tensor, count, offsets, mask, DTYPE)
    mask = mask & (tl.load(unless).to(tl.int32) != 1)
    change = m / (tl.sqrt(v) + tl.load(scalars + 1)) + decay * p
    tl.store(p_places, (p - tl.load(scalars) * change).to(DTYPE), mask=mask)


Lists = Sequence[Sequence[Tensor | None]]


def fit(*lists: Sequence[Tensor | None]) -> bool:
    """Whether the kernels can work on these tensors: all of one dtype, none with gaps or another order of its numbers in memory."""
    dtype = lists[0][0].dtype
    present = (tensor for tensors in lists for tensor in tensors if tensor is not None)
    return dtype in DTYPES and all(tensor.dtype == dtype and tensor.is_contiguous() for tensor in present)


def launch(kernel, lists: Lists, unless: Tensor | None, scalars: Sequence[Tensor], *constants: float) -> Tensor:
    """Runs one program of `kernel` per block of each tensor; returns the two sums of each program, (programs, 2), where it makes any.

    lists: of one length; the tensors of one place have one size, or are None, which reads as zeros. scalars: on the device.
    """
    first = lists[0]
    device = first[0].device
    blocks, sizes = blocks_of(tuple(tensor.numel() for tensor in first), BLOCK, device)
    addresses = torch.tensor([[0 if tensor is None else tensor.data_ptr() for tensor in tensors] for tensors in lists])
    sums = torch.empty(len(blocks), 2, device=device)
    kernel[(len(blocks),)](
        sent(addresses, device), len(first), blocks, sizes, torch.zeros((), device=device) if unless is None else unless,
        torch.stack([scalar.float() for scalar in scalars]), sums, *map(float, constants), DTYPE=DTYPES[first[0].dtype], BLOCK=BLOCK,
    )  # fmt: skip
    return sums


def added_up(sums: Tensor) -> Tensor:
    """The sums of all programs, (2,) in float64."""
    return sums.sum(dim=0, dtype=torch.float64)


@functools.lru_cache(maxsize=16)
def blocks_of(sizes: tuple[int, ...], block: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(tensor, block of this tensor) of each program, (programs, 2) int32, and the sizes, (n,) int64."""
    numbers = torch.tensor(sizes)
    counts = (numbers + block - 1) // block
    tensors = torch.repeat_interleave(torch.arange(len(sizes)), counts)
    within = torch.arange(len(tensors)) - (counts.cumsum(0) - counts)[tensors]
    return sent(torch.stack([tensors, within], dim=1).int(), device), sent(numbers, device)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device, without waiting for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def lion(unless: Tensor | None, lists: Lists, rate: Tensor, betas: Sequence[float], decay: float) -> None:
    """lists: parameters, gradients, exp_avg."""
    launch(_lion, lists, unless, [rate], *betas, decay)


def dadapt_lion(unless: Tensor | None, lists: Lists, step_size: Tensor, betas: Sequence[float], decay: float) -> Tensor:
    """lists: parameters, gradients, exp_avg, s. Returns the sums of update * s, the old one, and of |s|, the new one."""
    return added_up(launch(_dadapt_lion, lists, unless, [step_size], *betas, betas[1] ** 0.5, decay))


def dadapt_adam_averages(
    unless: Tensor | None, lists: Lists, step_size: Tensor, betas: Sequence[float], eps: float, scale: float
) -> Tensor:
    """lists: gradients, exp_avg, exp_avg_sq, s. Returns the sums of gradient * s / denominator, the old ones, and of |s|, the new one."""
    return added_up(launch(_dadapt_adam_averages, lists, unless, [step_size], *betas, betas[1] ** 0.5, eps, scale))


def dadapt_adam_move(unless: Tensor, lists: Lists, step_size: Tensor, eps: float, decay: float) -> None:
    """lists: parameters, exp_avg, exp_avg_sq."""
    launch(_dadapt_adam_move, lists, unless, [step_size], eps, decay)


def prodigy_averages(unless: Tensor | None, lists: Lists, distance: Tensor, weight: Tensor, betas: Sequence[float]) -> Tensor:
    """lists: parameters, gradients, starting points, exp_avg, exp_avg_sq, s. Returns the sums of gradient * (start - parameter) and |s|.

    weight: of the gradients in s. betas: three.
    """
    return added_up(launch(_prodigy_averages, lists, unless, [distance, weight], *betas))


def prodigy_move(unless: Tensor, lists: Lists, step_size: Tensor, eps: Tensor, decay: float) -> None:
    """lists: parameters, exp_avg, exp_avg_sq."""
    launch(_prodigy_move, lists, unless, [step_size, eps], decay)
