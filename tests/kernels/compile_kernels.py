"""Compiles every Triton kernel for several generations of GPUs, without one, and prints how many; Triton's interpreter must be off."""

import inspect
import sys
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from library.kernels import triton_kernels
from library.optim import triton_steps

KERNELS = [
    *(getattr(triton_kernels, name + way) for name in ("_group_norm", "_layer_norm", "_geglu") for way in ("", "_backward")),
    *(getattr(triton_steps, name) for name in ("_lion", "_dadapt_lion", "_adamw_small", "_adamw_8bit")),
    *(getattr(triton_steps, name) for name in ("_prodigy_averages", "_prodigy_move")),
    *(getattr(triton_steps, name) for name in ("_dadapt_adam_averages", "_dadapt_preprint_averages", "_dadapt_adam_move")),
]
TARGETS = {75: tl.float16, 80: tl.bfloat16, 90: tl.float32}  # compute capability times 10: the dtype to try there
NAMES = {tl.float16: "fp16", tl.bfloat16: "bf16", tl.float32: "fp32"}
IN_FP32 = ("means", "rstds", "unless", "scalars", "sums")
IN_INTEGERS = {"addresses": "*i64", "blocks": "*i32", "sizes": "*i64"}
SIZES = ("groups", "group_size", "positions", "width", "count")
CONSTANTS = {"HAS_SHIFT": True, "SILU": True, "BLOCK_C": 16, "BLOCK_P": 64, "BLOCK": 512}


def kind(name: str, annotation: object, dtype: tl.dtype) -> str:
    """Triton's word for the type of a kernel's argument."""
    if annotation is tl.constexpr:
        return "constexpr"
    if name in IN_INTEGERS:
        return IN_INTEGERS[name]
    if name in SIZES or name.startswith("stride_") or name in ("grad_b", "grad_c", "grad_p"):
        return "i32"
    if name in ("x", "y", "shift", "weight", "bias", "grad", "grad_x"):
        return f"*{NAMES[dtype]}"
    return "*fp32" if name in IN_FP32 else "fp32"


for kernel in KERNELS:
    parameters = inspect.signature(kernel.fn).parameters
    for target, dtype in TARGETS.items():
        signature = {name: kind(name, parameter.annotation, dtype) for name, parameter in parameters.items()}
        constants = CONSTANTS | {"POINTER": tl.pointer_type(dtype)}
        values = {(place,): constants[name] for place, name in enumerate(parameters) if signature[name] == "constexpr"}
        triton.compile(ASTSource(fn=kernel, signature=signature, constexprs=values), target=GPUTarget("cuda", target, 32))
print(len(KERNELS))
