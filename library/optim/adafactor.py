"""Adafactor (arXiv:1804.04235, algorithms 4 and 5) on all tensors at once; numbers and state are those of transformers.

A LoRA has hundreds of tensors but few shapes, so tensors of one shape are stacked and worked on as one. Their own sizes, which
the step sizes go by, stay on the device: a step reads nothing on the host.
"""

import math
from collections import defaultdict

import torch
from torch import Tensor
from transformers.optimization import Adafactor as PackageAdafactor

from library.optim.multi_tensor import HALF, MultiTensorStep


class Adafactor(MultiTensorStep, PackageAdafactor):
    """The package's class with another `step`, which can be left out on the device."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._counted = []
        for group in self.param_groups:
            alike = defaultdict(list)
            for parameter in (parameter for part, _ in self.parts(group) for parameter in part):
                self._prepare(group, parameter)
                self.count([parameter])
                alike[parameter.shape, parameter.dtype, parameter.device, self.state[parameter]["step"]].append(parameter)
            for parameters in alike.values():
                self._step_stack(group, parameters)
        return loss

    @staticmethod
    def _get_lr(param_group, param_state):
        """The package's step size of one parameter; a size that is a tensor stays on its device."""
        rate = param_group["lr"]
        if param_group["relative_step"]:
            rate = min(1e-6 * param_state["step"] if param_group["warmup_init"] else 1e-2, 1.0 / math.sqrt(param_state["step"]))
        if not param_group["scale_parameter"]:
            return rate
        size, smallest = param_state["RMS"], param_group["eps"][1]
        return rate * (size.clamp(min=smallest) if isinstance(size, Tensor) else max(smallest, size))

    def _prepare(self, group, parameter):
        """Gives a new parameter its state, and moves a loaded state to where its gradient is, in fp32 for half precision."""
        state, gradient = self.state[parameter], parameter.grad
        dtype = torch.float32 if gradient.dtype in HALF else gradient.dtype
        if not state:
            shape = gradient.shape
            sizes = {"exp_avg": shape} if group["beta1"] is not None else {}
            factored = len(shape) >= 2
            sizes |= {"exp_avg_sq_row": shape[:-1], "exp_avg_sq_col": (*shape[:-2], shape[-1])} if factored else {"exp_avg_sq": shape}
            state["step"], state["RMS"] = 0, 0
            state.update({name: torch.zeros(size, device=gradient.device, dtype=dtype) for name, size in sizes.items()})
        for name, value in state.items():
            if name.startswith("exp_avg") and (value.dtype != dtype or value.device != gradient.device):
                state[name] = value.to(gradient.device, dtype)

    def _step_stack(self, group, parameters):
        """Parameters of one shape, dtype, device and step count."""
        states = [self.state[parameter] for parameter in parameters]
        half = parameters[0].dtype in HALF
        weights = [parameter.float() for parameter in parameters] if half else parameters
        gradients = torch.stack([parameter.grad for parameter in parameters])
        updates = gradients.float() if gradients.dtype in HALF else gradients  # (N, *shape), ours to overwrite
        per_tensor = (-1, *[1] * parameters[0].dim())

        sizes = torch.stack(torch._foreach_norm(weights, 2)) / parameters[0].numel() ** 0.5
        for state, size in zip(states, sizes.unbind(), strict=True):
            state["RMS"] = size
        rates = torch.as_tensor(self._get_lr(group, {"step": states[0]["step"], "RMS": sizes}), device=updates.device).expand(len(states))
        self._scale_by_averages(updates, states, decay=1.0 - states[0]["step"] ** group["decay_rate"], eps=group["eps"][0])
        excess = torch.linalg.vector_norm(updates.flatten(1), dim=1) / parameters[0].numel() ** 0.5 / group["clip_threshold"]
        updates.mul_((rates / excess.clamp(min=1.0)).view(per_tensor))

        moves = list(updates.unbind())
        if group["beta1"] is not None:
            averages = [state["exp_avg"] for state in states]
            self.average(averages, moves, 1 - group["beta1"])
            moves = averages
        if group["weight_decay"] != 0:
            shrink = (group["weight_decay"] * rates).view(per_tensor)
            moves = list((torch.stack(moves) + torch.stack(list(weights)) * shrink).unbind())
        self.move(weights, moves, 1.0)
        if half:
            torch._foreach_copy_(parameters, weights)

    def _scale_by_averages(self, updates, states, *, decay, eps):
        """Moves the averages of the squares on and divides the gradients in `updates` by their root, in place."""
        squares = updates.square()
        if "exp_avg_sq" in states[0]:
            own = [state["exp_avg_sq"] for state in states]
            self.average(own, list(squares.add_(eps).unbind()), 1.0 - decay)
            updates.mul_(torch.stack(own).rsqrt_())
            return
        for name, axis in (("exp_avg_sq_row", -1), ("exp_avg_sq_col", -2)):
            own = [state[name] for state in states]
            self.average(own, list(squares.mean(dim=axis).add_(eps).unbind()), 1.0 - decay)
            average = torch.stack(own)
            if axis == -1:
                average /= average.mean(dim=-1, keepdim=True)
            updates.mul_(average.rsqrt_().unsqueeze(axis))
