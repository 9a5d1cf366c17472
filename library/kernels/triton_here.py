"""Whether Triton's kernels run on the device at hand: asked here and nowhere else."""

import importlib.util
from collections.abc import Callable

import torch

from library.strangers import FAILS_WITH, told, tried

# Compute capability that Triton's code for a dtype needs.
OLDEST_GPU = {torch.float16: (7, 5), torch.bfloat16: (8, 0), torch.float32: (7, 5)}


def may_run(device: torch.device, dtype: torch.dtype) -> bool:
    """False where there is nothing to mend: another device or dtype, an older GPU, no Triton (as on Windows)."""
    if device.type != "cuda" or dtype not in OLDEST_GPU or importlib.util.find_spec("triton") is None:
        return False
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= OLDEST_GPU[dtype]


def runs(attempt: Callable[[], object], otherwise: str) -> bool:
    """Tries kernels out, for Triton also needs a C compiler and a driver of its liking.

    attempt: imports and runs them; raises RuntimeError if a result is wrong. One line says why, and what is done `otherwise`.
    """
    try:
        import triton

        its_own_error = getattr(triton, "TritonError", RuntimeError)  # old versions have none
    except FAILS_WITH as error:
        return told(otherwise, "Triton", error)
    return tried(attempt, otherwise, "Triton", its_own_error)
