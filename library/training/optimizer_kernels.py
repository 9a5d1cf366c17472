"""Hands our optimizers their kernels where these run and take the very steps of the plain torch form."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from library.kernels import triton_here
from library.optim.multi_tensor import MultiTensorStep

SHAPES = ((3, 5), (70, 60))  # AdamW8bit keeps the states of the second in bytes
STEPS = 5
TOLERANCE = {torch.float32: 1e-2}  # of the way that the weights went; 0.1 in half precision
DISTANCE = {"d": 1e-2, "d0": 1e-2, "d_max": 1e-2}  # of optimizers that find one: large enough for steps to be seen


def use_kernels(
    optimizer: torch.optim.Optimizer, device: torch.device, anywhere: Callable[[Tensor], Tensor] = lambda flags: flags
) -> None:
    """Sets `optimizer.kernels` if it is one of ours that has kernels and they work on `device`, where its parameters are.

    anywhere: makes bools true that are true in any process: where they fail in one, all do without, so that all round alike.
    """
    if not isinstance(optimizer, MultiTensorStep) or not optimizer.has_kernels:
        return
    if not anywhere(torch.tensor(not they_work(optimizer, device), device=device)):
        from library.optim import triton_steps

        optimizer.kernels = triton_steps


def they_work(optimizer: MultiTensorStep, device: torch.device) -> bool:
    dtypes = {parameter.dtype for group in optimizer.param_groups for parameter in group["params"]}
    if not dtypes or not all(triton_here.may_run(device, dtype) for dtype in dtypes):
        return False
    otherwise = f"steps of {type(optimizer).__name__} are computed without kernels"
    return all(triton_here.runs(partial(compare, optimizer, device, dtype), otherwise) for dtype in dtypes)


def compare(optimizer: MultiTensorStep, device: torch.device, dtype: torch.dtype) -> None:
    """Takes a few steps on a few numbers both ways. Raises RuntimeError if they lead to different places, besides what Triton raises."""
    from library.optim import triton_steps

    ways = [few_steps(optimizer, kernels, device, dtype) for kernels in (None, triton_steps)]
    for expected, found in zip(*ways, strict=True):
        if not expected.isfinite().all():  # some optimizers cannot do with fp16, by whatever code
            continue
        if not (found - expected).norm() < TOLERANCE.get(dtype, 0.1) * expected.norm():
            raise RuntimeError(f"its numbers in {dtype} are not those of plain torch")


def few_steps(optimizer: MultiTensorStep, kernels, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """How far steps of an optimizer with the same settings move small parameters."""
    generator = torch.Generator().manual_seed(0)
    parameters = [(0.1 * torch.randn(shape, generator=generator)).to(device, dtype).requires_grad_() for shape in SHAPES]
    starts = [parameter.detach().float().clone() for parameter in parameters]
    first = optimizer.param_groups[0]
    found = {name: value for name, value in DISTANCE.items() if name in first}
    twin = object.__new__(type(optimizer))
    twin.__dict__.update(optimizer.__dict__)
    twin.kernels, twin.found_inf, twin.state = kernels, None, defaultdict(dict)
    twin.param_groups = [{**first, **found, "params": parameters, "lr": 1.0 if found else 1e-2}]
    ways = [torch.randn(shape, generator=generator) for shape in SHAPES]  # followed long enough for d to grow
    for _ in range(STEPS):
        for parameter, way in zip(parameters, ways, strict=True):
            parameter.grad = (way + 0.1 * torch.randn(way.shape, generator=generator)).to(device, dtype)
        type(twin).step(twin)  # `twin.step` may be what a schedule or accelerate put there, with the optimizer's own
    return [parameter.detach().float() - start for parameter, start in zip(parameters, starts, strict=True)]
