"""Compiles Triton's kernels as their callers ask for them, for several generations of GPUs, without one; prints the names of all that were.

A stand-in for Triton's driver says which GPU there is, and kernels are compiled but not launched. Triton's interpreter must be off.
"""

import sys
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from library.kernels import triton_kernels
from library.optim.triton_steps import STEPS

TARGETS = {75: torch.float16, 90: torch.bfloat16}  # compute capability times 10: the half precision to try there
run, compiled = triton.JITFunction.run, set()


class StandIn:
    """As much of a driver as compiling asks for."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # compiled kernels are kept by device

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


def warm_up(kernel, *arguments, grid, warmup=False, **constants):
    compiled.add(kernel.fn.__name__)
    return run(kernel, *arguments, grid=grid, warmup=True, **constants)


def norms_and_gates(dtype: torch.dtype) -> None:
    x, rows = torch.ones(1, 4, 2, 2, dtype=dtype), torch.ones(3, 8, dtype=dtype)
    w, shift = torch.ones(4, dtype=dtype), torch.ones(1, 4, dtype=dtype)
    for added, silu in ((None, False), (shift, True)):
        _, mean, rstd = triton_kernels.group_norm(x, added, w, w, 2, 1e-5, silu)
        triton_kernels.group_norm_backward(x, x, added, w, w, mean, rstd, 2, silu)
    triton_kernels.layer_norm(rows, rows[0], rows[0], 1e-5)
    triton_kernels.layer_norm_backward(rows, rows, rows[0], 1e-5)
    triton_kernels.geglu(rows)
    triton_kernels.geglu_backward(rows[:, :4], rows)


def optimizer_steps(dtype: torch.dtype) -> None:
    one, tensors = torch.ones(()), [torch.ones(300, dtype=dtype), torch.ones(5, dtype=dtype)]
    averages, codes = [tensor.float() for tensor in tensors], [tensor.byte() for tensor in tensors]
    STEPS.lion(None, [tensors] * 3, one, (0.9, 0.99), 0.0)
    STEPS.dadapt_lion(None, [tensors] * 4, one, (0.9, 0.99), 0.0)
    STEPS.dadapt_adam_averages(None, [tensors] * 4, one, (0.9, 0.99), 1e-8, 1.0)
    STEPS.dadapt_preprint_averages(None, [tensors] * 4, one, (0.9, 0.99), 1e-8)
    STEPS.dadapt_adam_move(one, [tensors] * 3, one, 1e-8, 0.0)
    STEPS.prodigy_averages(None, [tensors, tensors, [None, tensors[1]], *[tensors] * 3], one, one, (0.9, 0.99, 0.9))
    STEPS.prodigy_move(one, [tensors] * 3, one, one, 0.0)
    STEPS.adamw_small(None, [tensors, tensors, averages, averages], 0.9, 0.99, 1e-3, 1e-8, 1.0)
    lists = [tensors, tensors, codes, codes, averages, averages]
    STEPS.adamw_8bit(None, lists, torch.ones(512), 0.9, 0.99, 1e-3, 1e-8, 1.0)


triton.JITFunction.run = warm_up
for capability, dtype in TARGETS.items():
    driver.set_active(StandIn(capability))
    norms_and_gates(dtype)
optimizer_steps(torch.float32)  # for the last of them: adapters are fp32, and as good as nothing there depends on the GPU
print(*sorted(compiled))
