"""Hands our optimizers the steps that take one pass (library.optim.one_pass) where these run and lead where the plain torch form leads."""

import functools
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

from library.kernels import triton_here
from library.optim import cpu_steps
from library.optim.multi_tensor import MultiTensorStep
from library.optim.one_pass import OnePass
from library.strangers import tried

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
    if not isinstance(optimizer, MultiTensorStep) or not optimizer.one_pass:
        return
    steps = steps_that_work(optimizer, device)
    if not anywhere(torch.tensor(steps is None, device=device)):
        optimizer.kernels = steps


def steps_that_work(optimizer: MultiTensorStep, device: torch.device) -> OnePass | None:
    """Triton's on a GPU, those in C on the CPU, tried out; what fails is told in one line."""
    dtypes = {parameter.dtype for group in optimizer.param_groups for parameter in group["params"]}
    if not dtypes:
        return None
    if all(triton_here.may_run(device, dtype) for dtype in dtypes):
        steps, runs = triton_steps, triton_here.runs
    elif device.type == "cpu" and cpu_steps.may_run(dtypes, optimizer.one_pass):
        steps, runs = c_steps, functools.partial(tried, culprit=f"the C compiler {cpu_steps.compiler()}")
    else:
        return None
    otherwise = f"steps of {type(optimizer).__name__} are computed without kernels"
    works = all(runs(functools.partial(compare, optimizer, steps, device, dtype), otherwise) for dtype in dtypes)
    return steps() if works else None


def triton_steps() -> OnePass:
    from library.optim.triton_steps import STEPS

    return STEPS


def c_steps() -> OnePass:
    return cpu_steps.STEPS


def compare(optimizer: MultiTensorStep, steps: Callable[[], OnePass], device: torch.device, dtype: torch.dtype) -> None:
    """Takes a few steps on a few numbers both ways. Raises RuntimeError if they lead to different places, besides what `steps` raises."""
    ways = [few_steps(optimizer, kernels, device, dtype) for kernels in (None, steps())]
    for expected, found in zip(*ways, strict=True):
        if not expected.isfinite().all():  # some optimizers cannot do with fp16, by whatever code
            continue
        if not (found - expected).norm() < TOLERANCE.get(dtype, 0.1) * expected.norm():
            raise RuntimeError(f"its numbers in {dtype} are not those of plain torch")


def few_steps(optimizer: MultiTensorStep, kernels: OnePass | None, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
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
