"""What the optimizers here share: work on lists of tensors, with every scalar on the device and every write able to be left out.

A LoRA has hundreds of small tensors. Working on lists of them costs a few kernels per step instead of a few per tensor, and a step
that reads nothing on the host never waits for the GPU.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from library.optim.one_pass import OnePass

CPU_PART = 2**18  # numbers: a MiB of float32, of which a few stay in the cache from one operation to the next
GPU_PART = 2**25  # 128 MiB: what an operation has made waits for the next one, as large as all the tensors otherwise
HALF = (torch.float16, torch.bfloat16)


class MultiTensorStep:
    """Part of an optimizer whose step is left out on the device where `found_inf` is 1, as torch's fused optimizers do it.

    found_inf: float32 scalar on the parameters' device, from whoever judges the gradients; None makes every step. For this, steps
    write to weights and states with `move` and `average` alone. Numbers that a step finds, such as Prodigy's d, stay on the device
    too: float64 scalars in the parameter groups, plain numbers in the state dict, as in the packages.
    """

    found_inf: Tensor | None = None
    one_pass: tuple[str, ...] = ()  # the steps of library.optim.one_pass that it is made of
    kernels: OnePass | None = None  # to be set where they run on the parameters' device
    _step_supports_amp_scaling = False  # true lets torch's gradient scaler hand over `found_inf`, which it reads otherwise
    param_groups: list[dict[str, Any]]
    state: dict[Tensor, dict[str, Any]]
    _counted: list[Tensor]

    def leaves_out(self) -> bool:
        """Whether the next step goes by `found_inf`."""
        return True

    def step_left_out(self) -> None:
        """To be called before the next step once the host knows that `found_inf` was 1: takes back what `count` has counted."""
        for parameter in self._counted:
            self.state[parameter]["step"] -= 1
        self._counted = []

    def count(self, parameters: Sequence[Tensor]) -> None:
        """Counts a step of each; a step begins with an empty `_counted`."""
        for parameter in parameters:
            self.state[parameter]["step"] += 1
        self._counted += parameters

    def state_dict(self) -> dict[str, Any]:
        """Waits for the numbers that are on the device."""
        state = super().state_dict()
        state["param_groups"] = [{key: _plain(key, value) for key, value in group.items()} for group in state["param_groups"]]
        return state

    def scalars(self, names: Iterable[str]) -> list[Tensor]:
        """Numbers of the first group as float64 scalars on the device of its parameters."""
        first, device = self.param_groups[0], self.param_groups[0]["params"][0].device
        return [on_device(first[name], device) for name in names]

    def kernels_for(self, *lists: Sequence[Tensor | None]) -> OnePass | None:
        """The kernels, if there are any and they take these tensors."""
        return self.kernels if self.kernels is not None and self.kernels.fit(*lists) else None

    def parts(self, group: dict[str, Any]) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """The parameters of a group that have a gradient, and these gradients, in parts to be worked on one after the other."""
        return with_gradients(group, for_cache=self.kernels is None)

    def knows_float64(self) -> bool:
        """Whether the device of the parameters has the numbers that d is kept in; Apple's GPUs do not."""
        return self.param_groups[0]["params"][0].device.type != "mps"

    def states(self, parameters: Sequence[Tensor], *names: str) -> list[list[Tensor]]:
        """Of each name, what is kept under it for each of the parameters; None where there is nothing."""
        states = [self.state[parameter] for parameter in parameters]
        return [[state.get(name) for state in states] for name in names]

    def keep(self, found: Mapping[str, Tensor], denominator: Tensor) -> Tensor:
        """Writes what a step found into all groups, unless it is left out or `denominator`, that of the estimate of d, is still 0.

        Returns what `move_unless` goes by: 1 where nothing was written.
        """
        still = (denominator == 0).float()
        if self.found_inf is not None:
            still = torch.maximum(still, self.found_inf)
        first = self.param_groups[0]
        kept = {name: torch.where(still > 0, first.get(name, 0.0), value) for name, value in found.items()}
        for group in self.param_groups:
            group.update(kept)
        return still

    def bias_correction(self, group: dict[str, Any], steps: Tensor) -> Tensor | float:
        """Adam's factor on the rate in the step after `steps`; 1 where the group does without."""
        if not group["use_bias_correction"]:
            return 1.0
        left1, left2 = (1 - torch.full_like(steps, beta) ** (steps + 1) for beta in group["betas"])
        return torch.sqrt(left2) / left1

    def move(self, targets: Sequence[Tensor], changes: Sequence[Tensor], rate: float | Tensor, *, decay: float = 0.0) -> None:
        """targets -= rate * (changes + decay * targets). All of one dtype; rate may be a scalar on the device."""
        move_unless(self.found_inf, targets, changes, rate, decay=decay)

    def average(self, targets: Sequence[Tensor], values: Sequence[Tensor], weight: float) -> None:
        """targets += weight * (values - targets)."""
        self.move(targets, values, -weight, decay=-1.0)


def on_device(number: float | Tensor, device: torch.device) -> Tensor:
    """A float64 scalar on the device."""
    return number.to(device, torch.float64) if isinstance(number, Tensor) else torch.full((), number, dtype=torch.float64, device=device)


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype == torch.float64 and not value.dim():
        return int(value) if key == "k" else float(value)
    return value


def move_unless(
    found_inf: Tensor | None, targets: Sequence[Tensor], changes: Sequence[Tensor], rate: float | Tensor, *, decay: float = 0.0
) -> None:
    """targets -= rate * (changes + decay * targets), in one pass; nothing is written where `found_inf` is 1.

    It is torch's fused SGD without momentum, which computes half precision in float32. rate: a number, or a scalar on the device.
    """
    if targets[0].device.type == "cpu" and targets[0].dtype in HALF:  # there torch's kernel passes most of the numbers over (issue 191763)
        wide = [target.float() for target in targets]
        move_unless(found_inf, wide, [change.float() for change in changes], rate, decay=decay)
        torch._foreach_copy_(targets, wide)
        return
    torch._fused_sgd_(
        list(targets), list(changes), [], weight_decay=decay, momentum=0.0, lr=rate.float() if isinstance(rate, Tensor) else rate,
        dampening=0.0, nesterov=False, maximize=False, is_first_step=False, grad_scale=None, found_inf=found_inf,
    )  # fmt: skip


def scaled(tensors: Sequence[Tensor], factor: Tensor) -> list[Tensor]:
    """tensors * factor, a scalar on the device; half precision is rounded once."""
    if tensors[0].dtype not in HALF:
        return torch._foreach_mul(tensors, factor.to(tensors[0].dtype))
    products = torch._foreach_mul([tensor.float() for tensor in tensors], factor.float())
    return [product.to(tensors[0].dtype) for product in products]


def products_sum(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Sum of all element products of two equally long lists of equal shapes, a float64 scalar."""
    if left[0].device.type == "cpu":  # no launches to save here, and a dot product needs no memory
        dots = [torch.dot(one.reshape(-1), other.reshape(-1)) for one, other in zip(left, right, strict=True)]
        return torch.stack(dots).sum(dtype=torch.float64)
    products = torch._foreach_mul(left, right)
    return torch.cat([product.reshape(-1) for product in products]).sum(dtype=torch.float64)


def absolute_sum(tensors: Sequence[Tensor]) -> Tensor:
    """Sum of all absolute values, a float64 scalar."""
    if tensors[0].device.type == "cpu":
        return torch.stack([tensor.abs().sum() for tensor in tensors]).sum(dtype=torch.float64)
    return torch.stack(torch._foreach_norm(tensors, 1)).sum(dtype=torch.float64)


def with_gradients(group: dict[str, Any], *, for_cache: bool = True) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """The parameters of a group that have a gradient, and these gradients, in parts.

    A part is of one device and dtype, and not much larger than GPU_PART numbers, on the CPU CPU_PART if it is `for_cache`. A gradient
    has its numbers in the order of its parameter's: torch's fused kernels go by their place in memory.
    """
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    for parameter in group["params"]:
        gradient = parameter.grad
        if gradient is None:
            continue
        if not lie_alike(parameter, gradient):
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        alike[parameter.device, parameter.dtype].append(parameter)
    for (device, _), parameters in alike.items():
        for part in _parts(parameters, CPU_PART if device.type == "cpu" and for_cache else GPU_PART):
            yield part, [parameter.grad for parameter in part]


def lie_alike(parameter: Tensor, gradient: Tensor) -> bool:
    """Whether the numbers of both have one order in memory; a recorded backward pass hands out gradients in another one."""
    return (gradient.is_contiguous() and parameter.is_contiguous()) or gradient.stride() == parameter.stride()


def _parts(parameters: Sequence[Tensor], numbers: int) -> Iterator[list[Tensor]]:
    """The parameters in lists that end with the one with which they reach so many numbers."""
    part, size = [], 0
    for parameter in parameters:
        part.append(parameter)
        size += parameter.numel()
        if size >= numbers:
            yield part
            part, size = [], 0
    if part:
        yield part
