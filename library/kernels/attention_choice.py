"""The kernel that computes scaled dot product attention, chosen in one place (`--attention`).

An attend function takes q (B, heads, L, size), k and v (B, heads, M, size) of any strides and returns (B, heads, L, size).
"""

import importlib.util
import logging
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel

from library.strangers import FAULTS

logger = logging.getLogger(__name__)

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

AUTO, XFORMERS = "auto", "xformers"
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
NO_KERNEL = ("No available kernel", "No viable backend")  # how torch begins to say that a kernel cannot do it, on CUDA and on the CPU
TIMED_RUNS = 3


class Pinned:
    """One of torch's kernels and no other. Raises ValueError where it cannot compute the shapes or the dtype it is given."""

    def __init__(self, name: str):
        self.name = name
        self.backend = BACKENDS[name]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        try:
            with sdpa_kernel(self.backend):
                return F.scaled_dot_product_attention(query, key, value)
        except RuntimeError as error:
            if not any(words in str(error) for words in NO_KERNEL):
                raise
            raise ValueError(
                f"--attention {self.name} cannot compute heads of {query.shape[-1]} channels in {query.dtype} on {query.device.type}:"
                " use --attention auto, or leave it out"
            ) from error


def xformers_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """xFormers' memory-efficient attention, which has the heads behind the positions."""
    from xformers.ops import memory_efficient_attention

    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    return memory_efficient_attention(query, key, value).transpose(1, 2)


class Fastest:
    """Times every candidate forward and backward the first time a shape comes, and uses the fastest for it from then on.

    Two runs may choose differently where candidates are close, and then differ by rounding.
    """

    def __init__(self, candidates: Mapping[str, Attend], seconds: Callable[[Attend, tuple[Tensor, ...]], float]):
        """seconds: how long an attend function takes with q, k and v. A candidate that fails is left out."""
        self._candidates = candidates
        self._seconds = seconds
        self._chosen: dict[tuple, Attend] = {}

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # a compiler cannot time what it is compiling
            return F.scaled_dot_product_attention(query, key, value)
        case = (query.shape, key.shape, query.dtype)
        if case not in self._chosen:
            self._chosen[case] = self._choose(query, key, value)
        return self._chosen[case](query, key, value)

    def _choose(self, *states: Tensor) -> Attend:
        times = {}
        for name, attend in self._candidates.items():
            try:
                times[name] = self._seconds(attend, states)
            except FAULTS as error:  # no kernel for it, no memory for the trial, a package made for another torch
                logger.debug("--attention auto: %s is left out: %s", name, error)
        if not times:
            return F.scaled_dot_product_attention
        best = min(times, key=times.get)
        listed = ", ".join(f"{name} {seconds * 1e3:.2f} ms" for name, seconds in times.items())
        logger.info("--attention auto: %s for %s x %s (%s)", best, tuple(states[0].shape), states[1].shape[2], listed)
        return self._candidates[best]


def seconds_on_gpu(attend: Attend, states: tuple[Tensor, ...]) -> float:
    """The time of one forward and backward on copies, after one run to warm up. Waits for the GPU."""
    with torch.enable_grad(), saved_tensors_hooks(unchanged, unchanged):  # so that checkpointing around it records nothing
        copies = [tensor.detach().clone().requires_grad_() for tensor in states]
        for run in range(TIMED_RUNS + 1):
            if run == 1:
                torch.cuda.synchronize()
                start = time.perf_counter()
            attend(*copies).sum().backward()
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / TIMED_RUNS


def unchanged(tensor: Tensor) -> Tensor:
    return tensor


def attend_function(choice: str | None, device_type: str) -> Attend:
    """What --attention asks for. None, and everything on other devices than CUDA, is torch's own choice.

    Raises ValueError for `xformers` without the package.
    """
    if choice is None:
        return F.scaled_dot_product_attention
    if device_type != "cuda":
        logger.info("--attention %s is for CUDA: on %s torch's scaled dot product attention is used", choice, device_type)
        return F.scaled_dot_product_attention
    has_xformers = importlib.util.find_spec("xformers") is not None
    if choice == AUTO:
        candidates: dict[str, Attend] = {name: Pinned(name) for name in BACKENDS if name != "math"}
        if has_xformers:
            candidates[XFORMERS] = xformers_attention
        return Fastest(candidates, seconds_on_gpu)
    if choice == XFORMERS:
        if not has_xformers:
            raise ValueError(
                "--xformers and --attention xformers need the package xformers: pip install xformers, or use --sdpa, which needs nothing"
            )
        return xformers_attention
    return Pinned(choice)
