"""The steps of one_pass.py as C functions for the CPU (cpu_steps.c).

They are compiled when a run first needs them, in under a second and for the processor at hand, and leave no file behind. Without a C
compiler, and on other systems than Linux, the plain torch forms compute.
"""

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from library.optim.one_pass import Lists, OnePass, addresses_of

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ("-std=c99", "-O3", "-fopenmp-simd", "-fno-math-errno", "-shared", "-fPIC")
FOR_THIS_PROCESSOR = ("-march=native",)  # which some compilers do not know
PLACE, WHOLE = ctypes.c_void_p, ctypes.c_int64
ARGUMENTS = (PLACE, PLACE, WHOLE, WHOLE, PLACE, WHOLE, WHOLE, PLACE, PLACE, PLACE, PLACE)  # of `run`
LONGEST = 60  # seconds that the compiler may take; it needs less than one
WORTH_A_THREAD = 2**17  # numbers


class CSteps(OnePass):
    def fit(self, *lists: Sequence[Tensor | None]) -> bool:
        """True for tensors that are all float32, in main memory and without gaps."""
        present = [tensor for tensors in lists for tensor in tensors if tensor is not None]
        return all(tensor.dtype == torch.float32 and tensor.is_cpu and tensor.is_contiguous() for tensor in present)

    def launch(self, name: str, lists: Lists, unless: Tensor | None, scalars: Tensor, *constants: float) -> Tensor:
        """Shares the pieces out among as many threads as torch uses; their number changes no sum."""
        functions, first = compiled(), lists[0]
        pieces = pieces_of(tuple(map(Tensor.numel, first)), ctypes.c_int64.in_dll(functions, "piece_size").value)
        addresses = np.array([addresses_of(tensors) for tensors in lists], dtype=np.int64)
        numbers, sums = np.array(constants, dtype=np.float64), torch.zeros(len(pieces), 3, dtype=torch.float64)
        threads = min(torch.get_num_threads(), 1 + int(pieces[:, 2].sum()) // WORTH_A_THREAD)
        bounds = [len(pieces) * share // threads for share in range(threads + 1)]

        def work(number: int) -> None:
            functions.run(
                getattr(functions, name), addresses.ctypes.data, len(lists), len(first), pieces.ctypes.data,
                bounds[number], bounds[number + 1], None if unless is None else unless.data_ptr(),
                scalars.data_ptr(), numbers.ctypes.data, sums.data_ptr(),
            )  # fmt: skip

        if threads == 1:
            work(0)
        else:
            list(pool().map(work, range(threads)))
        return sums


STEPS = CSteps()


def may_run(dtypes: set[torch.dtype], steps: Sequence[str]) -> bool:
    """False where there is nothing to mend: half precision, steps that are for GPUs alone, no C compiler."""
    return dtypes == {torch.float32} and all(hasattr(STEPS, name) for name in steps) and compiler() is not None


@functools.cache
def compiler() -> str | None:
    """The C compiler to use, $CC or the system's; None if there is none, and on systems whose compilers take other words."""
    if sys.platform != "linux":
        return None
    return os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


@functools.cache
def compiled() -> ctypes.CDLL:
    """The C functions. Raises OSError, RuntimeError or subprocess.SubprocessError where they cannot be compiled or loaded."""
    for more in (FOR_THIS_PROCESSOR, ()):
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "cpu_steps.so"
            command = [*compiler().split(), *FLAGS, *more, "-o", str(made), str(SOURCE)]
            ended = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=LONGEST)
            if not ended.returncode:
                functions = ctypes.CDLL(str(made))  # stays in memory when its file is gone
                functions.run.argtypes, functions.run.restype = ARGUMENTS, None
                return functions
    raise RuntimeError(ended.stderr.decode(errors="replace").strip() or f"exit status {ended.returncode}")


@functools.cache
def pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="optimizer")


@functools.lru_cache(maxsize=128)
def pieces_of(sizes: tuple[int, ...], largest: int) -> np.ndarray:
    """(tensor, first number, how many) of pieces of at most `largest` numbers, (pieces, 3) int64."""
    pieces = [(tensor, start, min(largest, size - start)) for tensor, size in enumerate(sizes) for start in range(0, size, largest)]
    return np.array(pieces, dtype=np.int64).reshape(-1, 3)
