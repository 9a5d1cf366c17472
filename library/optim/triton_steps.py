"""The steps of one_pass.py as Triton kernels: all tensors of a step in one launch.

Imported where a GPU is about to run them, or Triton's interpreter. A kernel takes its tensors by their addresses, asked for anew at
each step.
"""

import functools
import operator
from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from library.optim.one_pass import Lists, OnePass, addresses_of

BLOCK = 2048  # numbers that one program works on
DTYPE_OF = operator.attrgetter("dtype")


class Pointer(tl.pointer_type):
    """Triton's type, which from version 3.5 on cannot be the argument of a kernel, as it has no hash."""

    def __hash__(self) -> int:
        return hash(str(self))


FP32, BYTES = tl.constexpr(Pointer(tl.float32)), tl.constexpr(Pointer(tl.uint8))
POINTERS = {torch.float32: Pointer(tl.float32), torch.float16: Pointer(tl.float16), torch.bfloat16: Pointer(tl.bfloat16)}


@triton.jit
def _place(blocks, sizes, BLOCK: tl.constexpr):
    """Which tensor this program works on, and on which of its numbers."""
    program = tl.program_id(0)
    tensor = tl.load(blocks + 2 * program)
    offsets = tl.load(blocks + 2 * program + 1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return tensor, offsets, offsets < tl.load(sizes + tensor)


@triton.jit
def _numbers(addresses, row, tensor, count, offsets, mask, POINTER: tl.constexpr):
    """Where the numbers of a tensor of the list `row` lie, and the numbers; zeros where the list has no tensor."""
    address = tl.load(addresses + row * count + tensor)
    places = address.to(POINTER) + offsets
    return places, tl.load(places, mask=mask & (address != 0), other=0.0).to(tl.float32)


@triton.jit
def _unless_left_out(unless, mask):
    """The mask, or nothing where the step is left out."""
    return mask & (tl.load(unless).to(tl.int32) != 1)


@triton.jit
def _write(places, values, mask):
    tl.store(places, values.to(places.dtype.element_ty), mask=mask)


@triton.jit
def _sign(values):
    return tl.where(values > 0, 1.0, tl.where(values < 0, -1.0, 0.0))


@triton.jit
def _add_up(sums, number, values):
    """Leaves this program's sum where the host side adds those of all programs; it is the `number`-th of three that it may make."""
    tl.store(sums + 3 * tl.program_id(0) + number, tl.sum(values, 0))


@triton.jit
def _lion(addresses, count, blocks, sizes, unless, scalars, sums, beta1, beta2, decay, POINTER: tl.constexpr, BLOCK: tl.constexpr):
    tensor, offsets, mask = _place(blocks, sizes, BLOCK)
    p_places, p = _numbers(addresses, 0, tensor, count, offsets, mask, POINTER)
    _, g = _numbers(addresses, 1, tensor, count, offsets, mask, POINTER)
    m_places, m = _numbers(addresses, 2, tensor, count, offsets, mask, POINTER)
    rate = tl.load(scalars)
    mask = _unless_left_out(unless, mask)
    update = _sign(beta1 * m + (1.0 - beta1) * g)
    _write(p_places, p - rate * (update + decay * p), mask)
    _write(m_places, m + (1.0 - beta2) * (g - m), mask)


@triton.jit
def _dadapt_lion(
    addresses, count, blocks, sizes, unless, scalars, sums, beta1, beta2, sqrt_beta2, decay, POINTER: tl.constexpr, BLOCK: tl.constexpr
):
    tensor, offsets, mask = _place(blocks, sizes, BLOCK)
    p_places, p = _numbers(addresses, 0, tensor, count, offsets, mask, POINTER)
    _, g = _numbers(addresses, 1, tensor, count, offsets, mask, POINTER)
    m_places, m = _numbers(addresses, 2, tensor, count, offsets, mask, POINTER)
    s_places, s = _numbers(addresses, 3, tensor, count, offsets, mask, POINTER)
    step_size = tl.load(scalars)
    update = _sign(beta1 * m + (1.0 - beta1) * g)
    new_s = s + (1.0 - sqrt_beta2) * (step_size * update - s)
    _add_up(sums, 0, update * s)  # outside of the tensor all is 0
    _add_up(sums, 1, tl.abs(new_s))
    mask = _unless_left_out(unless, mask)
    _write(p_places, p - step_size * (update + decay * p), mask)
    _write(m_places, m + (1.0 - beta2) * (step_size * g - m), mask)
    _write(s_places, new_s, mask)


@triton.jit
def _dadapt_adam_averages(
    addresses, count, blocks, sizes, unless, scalars, sums, beta1, beta2, sqrt_beta2, eps, scale, POINTER: tl.constexpr, BLOCK: tl.constexpr
):
    tensor, offsets, mask = _place(blocks, sizes, BLOCK)
    _, g = _numbers(addresses, 0, tensor, count, offsets, mask, POINTER)
    m_places, m = _numbers(addresses, 1, tensor, count, offsets, mask, POINTER)
    v_places, v = _numbers(addresses, 2, tensor, count, offsets, mask, POINTER)
    s_places, s = _numbers(addresses, 3, tensor, count, offsets, mask, POINTER)
    change = tl.load(scalars) * g
    new_s = s + (1.0 - sqrt_beta2) * (change - s)
    _add_up(sums, 0, tl.where(mask, g * s / (tl.sqrt(v) + eps), 0.0))  # outside of the tensor, with an eps of 0, it is 0 / 0
    _add_up(sums, 1, tl.abs(new_s))
    mask = _unless_left_out(unless, mask)
    _write(v_places, v + (1.0 - beta2) * (g * g - v), mask)
    _write(s_places, new_s, mask)
    _write(m_places, m + (1.0 - beta1) * (scale * change - m), mask)


@triton.jit
def _dadapt_preprint_averages(
    addresses, count, blocks, sizes, unless, scalars, sums, beta1, beta2, eps, POINTER: tl.constexpr, BLOCK: tl.constexpr
):
    tensor, offsets, mask = _place(blocks, sizes, BLOCK)
    _, g = _numbers(addresses, 0, tensor, count, offsets, mask, POINTER)
    m_places, m = _numbers(addresses, 1, tensor, count, offsets, mask, POINTER)
    v_places, v = _numbers(addresses, 2, tensor, count, offsets, mask, POINTER)
    s_places, s = _numbers(addresses, 3, tensor, count, offsets, mask, POINTER)
    change = tl.load(scalars) * g
    new_s = s + (1.0 - beta2) * (change - s)
    new_v = v + (1.0 - beta2) * (g * g - v)
    denominator = tl.sqrt(new_v) + eps
    _add_up(sums, 0, tl.where(mask, g * g / denominator, 0.0))
    _add_up(sums, 1, tl.where(mask, new_s * new_s / denominator, 0.0))
    _add_up(sums, 2, tl.abs(new_s))
    mask = _unless_left_out(unless, mask)
    _write(v_places, new_v, mask)
    _write(s_places, new_s, mask)
    _write(m_places, m + (1.0 - beta1) * (change - m), mask)


@triton.jit
def _dadapt_adam_move(addresses, count, blocks, sizes, unless, scalars, sums, eps, decay, POINTER: tl.constexpr, BLOCK: tl.constexpr):
    tensor, offsets, mask = _place(blocks, sizes, BLOCK)
    p_places, p = _numbers(addresses, 0, tensor, count, offsets, mask, POINTER)
    _, m = _numbers(addresses, 1, tensor, count, offsets, mask, POINTER)
    _, v = _numbers(addresses, 2, tensor, count, offsets, mask, POINTER)
    mask = _unless_left_out(unless, mask)
    change = m / (tl.sqrt(v) + eps) + decay * tl.load(scalars) * p
    _write(p_places, p - change, mask)


@triton.jit
def _prodigy_averages(
    addresses, count, blocks, sizes, unless, scalars, sums, beta1, beta2, beta3, POINTER: tl.constexpr, BLOCK: tl.constexpr
):
    tensor, offsets, mask = _place(blocks, sizes, BLOCK)
    _, p = _numbers(addresses, 0, tensor, count, offsets, mask, POINTER)
    _, g = _numbers(addresses, 1, tensor, count, offsets, mask, POINTER)
    _, start = _numbers(addresses, 2, tensor, count, offsets, mask, POINTER)
    m_places, m = _numbers(addresses, 3, tensor, count, offsets, mask, POINTER)
    v_places, v = _numbers(addresses, 4, tensor, count, offsets, mask, POINTER)
    s_places, s = _numbers(addresses, 5, tensor, count, offsets, mask, POINTER)
    change = tl.load(scalars) * g
    new_s = beta3 * s + tl.load(scalars + 1) * g
    _add_up(sums, 0, g * (start - p))
    _add_up(sums, 1, tl.abs(new_s))
    mask = _unless_left_out(unless, mask)
    _write(m_places, m + (1.0 - beta1) * (change - m), mask)
    _write(v_places, v + (1.0 - beta2) * (change * change - v), mask)
    _write(s_places, new_s, mask)


@triton.jit
def _prodigy_move(addresses, count, blocks, sizes, unless, scalars, sums, decay, POINTER: tl.constexpr, BLOCK: tl.constexpr):
    tensor, offsets, mask = _place(blocks, sizes, BLOCK)
    p_places, p = _numbers(addresses, 0, tensor, count, offsets, mask, POINTER)
    _, m = _numbers(addresses, 1, tensor, count, offsets, mask, POINTER)
    _, v = _numbers(addresses, 2, tensor, count, offsets, mask, POINTER)
    mask = _unless_left_out(unless, mask)
    change = m / (tl.sqrt(v) + tl.load(scalars + 1)) + decay * p
    _write(p_places, p - tl.load(scalars) * change, mask)


@triton.jit
def _adam(p, g, m, v, beta1, beta2, step_size, eps, kept):
    """Weights and averages after a step of AdamW, as bitsandbytes makes it: weight decay, to `kept` of the weights, comes last."""
    m = beta1 * m + (1.0 - beta1) * g
    v = beta2 * v + (1.0 - beta2) * g * g
    return (p - step_size * (m / (tl.sqrt(v) + eps))) * kept, m, v


@triton.jit
def _adamw_small(
    addresses, count, blocks, sizes, unless, scalars, sums, beta1, beta2, step_size, eps, kept, POINTER: tl.constexpr, BLOCK: tl.constexpr
):
    tensor, offsets, mask = _place(blocks, sizes, BLOCK)
    p_places, p = _numbers(addresses, 0, tensor, count, offsets, mask, POINTER)
    _, g = _numbers(addresses, 1, tensor, count, offsets, mask, POINTER)
    m_places, m = _numbers(addresses, 2, tensor, count, offsets, mask, FP32)
    v_places, v = _numbers(addresses, 3, tensor, count, offsets, mask, FP32)
    p, m, v = _adam(p, g, m, v, beta1, beta2, step_size, eps, kept)
    mask = _unless_left_out(unless, mask)
    _write(p_places, p, mask)
    _write(m_places, m, mask)
    _write(v_places, v, mask)


@triton.jit
def _nearest(values, table):
    """The place of the number nearest to each of the values in a table of 256 ascending numbers."""
    below = tl.zeros_like(values).to(tl.int32)
    for halving in tl.static_range(8):
        ahead = below + (128 >> halving)
        below = tl.where(tl.load(table + ahead) <= values, ahead, below)
    above = tl.minimum(below + 1, 255)
    return tl.where(values - tl.load(table + below) > tl.load(table + above) - values, above, below)


@triton.jit
def _unpacked(codes, largest, table):
    return tl.load(table + codes.to(tl.int32)) * largest[:, None]


@triton.jit
def _packed(values, table):
    """Values (rows, 256) as places in the table of the numbers nearest to their share in the row's largest one, and the largest ones.

    What is below zero never becomes zero, but the number before it.
    """
    largest = tl.max(tl.abs(values), 1)
    shares = values / tl.where(largest > 0.0, largest, 1.0)[:, None]
    codes = _nearest(shares, table)
    codes = tl.where((shares < 0.0) & (tl.load(table + codes) >= 0.0), codes - 1, codes)
    return codes.to(tl.uint8), largest


@triton.jit
def _adamw_8bit(
    addresses, count, blocks, sizes, unless, scalars, sums, beta1, beta2, step_size, eps, kept, POINTER: tl.constexpr, BLOCK: tl.constexpr
):
    """States are bytes, which say by the tables in `scalars`, signed and unsigned, what share of the largest in 256 a number is."""
    program = tl.program_id(0)
    tensor = tl.load(blocks + 2 * program)
    row = tl.load(blocks + 2 * program + 1) * (BLOCK // 256) + tl.arange(0, BLOCK // 256)
    offsets = row.to(tl.int64)[:, None] * 256 + tl.arange(0, 256)[None, :]
    size = tl.load(sizes + tensor)
    mask, row_mask = offsets < size, row.to(tl.int64) * 256 < size
    p_places, p = _numbers(addresses, 0, tensor, count, offsets, mask, POINTER)
    _, g = _numbers(addresses, 1, tensor, count, offsets, mask, POINTER)
    m_places, m = _numbers(addresses, 2, tensor, count, offsets, mask, BYTES)
    v_places, v = _numbers(addresses, 3, tensor, count, offsets, mask, BYTES)
    m_largest_places, m_largest = _numbers(addresses, 4, tensor, count, row, row_mask, FP32)
    v_largest_places, v_largest = _numbers(addresses, 5, tensor, count, row, row_mask, FP32)
    m, v = _unpacked(m, m_largest, scalars), _unpacked(v, v_largest, scalars + 256)
    p, m, v = _adam(p, g, m, v, beta1, beta2, step_size, eps, kept)
    finite = mask & (g - g == 0.0)  # elsewhere bitsandbytes leaves the weight alone and forgets the averages
    m_codes, m_largest = _packed(tl.where(finite, m, 0.0), scalars)
    v_codes, v_largest = _packed(tl.where(finite, v, 0.0), scalars + 256)
    mask, row_mask = _unless_left_out(unless, mask), _unless_left_out(unless, row_mask)
    _write(p_places, p, mask & finite)
    _write(m_places, m_codes, mask)
    _write(v_places, v_codes, mask)
    _write(m_largest_places, m_largest, row_mask)
    _write(v_largest_places, v_largest, row_mask)


class TritonSteps(OnePass):
    """block: numbers that one program works on."""

    block = BLOCK

    def fit(self, *lists: Sequence[Tensor | None]) -> bool:
        """True for tensors that are all of one dtype, none with gaps or another order of its numbers in memory."""
        present = [tensor for tensors in lists for tensor in tensors if tensor is not None]
        dtypes = set(map(DTYPE_OF, present))
        return len(dtypes) == 1 and dtypes <= POINTERS.keys() and all(map(Tensor.is_contiguous, present))

    def launch(self, name: str, lists: Lists, unless: Tensor | None, scalars: Tensor, *constants: float) -> Tensor:
        """Runs one program of the kernel per block of each tensor."""
        first = lists[0]
        device = first[0].device
        blocks, sizes = blocks_of(tuple(map(Tensor.numel, first)), self.block, device)
        addresses = torch.from_numpy(np.array([addresses_of(tensors) for tensors in lists], dtype=np.int64))
        sums = torch.empty(len(blocks), 3, device=device)
        KERNELS[name][(len(blocks),)](
            sent(addresses, device), len(first), blocks, sizes, torch.zeros((), device=device) if unless is None else unless,
            scalars, sums, *map(float, constants), POINTER=POINTERS[first[0].dtype], BLOCK=self.block,
        )  # fmt: skip
        return sums

    def adamw_small(self, unless: Tensor | None, lists: Lists, *constants: float) -> None:
        """AdamW with averages in fp32. lists: parameters, gradients, state1, state2. constants: two betas, step size, eps, kept weights."""
        self.launch("adamw_small", lists, unless, lists[2][0], *constants)

    def adamw_8bit(self, unless: Tensor | None, lists: Lists, tables: Tensor, *constants: float) -> None:
        """AdamW with averages in blocks of 256 bytes (arXiv:2110.02861), numbers as in `adamw_small`.

        lists: parameters, gradients, state1, state2, absmax1, absmax2. tables: the 256 numbers that bytes of state1 mean, and of state2.
        """
        self.launch("adamw_8bit", lists, unless, tables, *constants)


KERNELS = {
    "lion": _lion,
    "dadapt_lion": _dadapt_lion,
    "dadapt_adam_averages": _dadapt_adam_averages,
    "dadapt_preprint_averages": _dadapt_preprint_averages,
    "dadapt_adam_move": _dadapt_adam_move,
    "prodigy_averages": _prodigy_averages,
    "prodigy_move": _prodigy_move,
    "adamw_small": _adamw_small,
    "adamw_8bit": _adamw_8bit,
}
STEPS = TritonSteps()


@functools.lru_cache(maxsize=128)
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
