"""D-Adaptation (arXiv:2301.07733) of Adam, in both of its forms, and Lion on all tensors at once; numbers and state are dadaptation's.

The distance estimate d and what it is made of stay on the device: a step reads nothing on the host.
"""

from collections.abc import Sequence

import dadaptation
import dadaptation.experimental
import torch
from torch import Tensor

from library.optim.multi_tensor import MultiTensorStep, absolute_sum, move_unless, products_sum, scaled

FOUND = ("d", "numerator_weighted", "k")
FOUND_BY_SQUARES = ("d", "gsq_weighted", "k")


class Adapted(MultiTensorStep):
    """What all of them have in common. Their own logging and sharded training go the package's way.

    first_rate_for_all: the package takes the first group's rate for all; elsewhere rates that differ are refused.
    """

    first_rate_for_all = False

    def leaves_out(self) -> bool:
        return self.knows_float64() and not any(group["log_every"] or group.get("fsdp_in_use") for group in self.param_groups)

    def step(self, closure=None):
        if not self.leaves_out():
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._counted = []
        with torch.no_grad():
            self._step(self._only_rate())
        return loss

    def _only_rate(self) -> float:
        if self.first_rate_for_all:
            return self.param_groups[0]["lr"]
        rate = max(group["lr"] for group in self.param_groups)
        if any(group["lr"] not in (rate, 0.0) for group in self.param_groups):
            raise RuntimeError("D-Adaptation allows one learning rate (or 0) for all parameter groups; layer_scale may differ")
        return rate

    def _estimate_distance(self, sums: Sequence[Tensor], rate: float, growth_rate: float = float("inf")) -> Tensor:
        """Writes the new estimate into every group. sums: (numerator, denominator) of each part of the tensors, (2,) each.

        Returns 1 where nothing has moved yet or the step is left out, a scalar on the device.
        """
        distance, weighted, steps = self.scalars(FOUND)
        sqrt_beta2 = self.param_groups[0]["betas"][1] ** 0.5
        accumulated, denominator = torch.stack(sums).sum(dim=0).unbind()
        weighted = sqrt_beta2 * weighted + (1 - sqrt_beta2) * accumulated
        if rate > 0.0:
            estimate = weighted / ((1 - sqrt_beta2) * denominator)
            distance = torch.maximum(distance, torch.minimum(estimate, distance * growth_rate))
        return self.keep({"d": distance, "numerator_weighted": weighted, "k": steps + 1}, denominator)

    def _estimate_from_squares(self, sums: Tensor, rate: float, step_size: Tensor, beta: float) -> Tensor:
        """The same by the other estimate. sums: of gradient^2 and of s^2, each over the denominators, and of |s|, (3,)."""
        first = self.param_groups[0]
        distance, weighted, steps = self.scalars(FOUND_BY_SQUARES)
        gradient_squares, along, size = sums.unbind()
        weighted = beta * weighted + gradient_squares * step_size**2 * (1 - beta)
        if rate > 0.0:
            estimate = (along / (1 - beta) - weighted) / size
            distance = torch.maximum(distance, torch.minimum(estimate, distance * first["growth_rate"]))
        return self.keep({"d": distance, "gsq_weighted": weighted, "k": steps + 1}, size)


class AdaptedAdam(Adapted):
    """Adam's two passes over the tensors: averages and what d is estimated from, then the step."""

    def _step(self, rate):
        first = self.param_groups[0]
        step_size = self._step_size(first, rate)
        sums = []
        for group in self.param_groups:
            for parameters, gradients in self.parts(group):
                self._prepare(parameters)
                if group["weight_decay"] != 0 and not first["decouple"]:
                    torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
                if group["lr"] > 0.0:
                    sums.append(self._update_averages(group, parameters, gradients, step_size))
        if not sums:
            return
        still = self._estimate(sums, rate, step_size)
        for group in self.param_groups:
            for parameters, _ in self.parts(group):
                self._move(group, parameters, first["decouple"], step_size, still)

    def _prepare(self, parameters):
        for parameter in parameters:
            state = self.state[parameter]
            if "step" not in state:
                state["step"] = 0
                state.update({name: torch.zeros_like(parameter) for name in ("s", "exp_avg", "exp_avg_sq")})

    def _move(self, group, parameters, decouple, step_size, still):
        self.count(parameters)
        averages, squares = self.states(parameters, "exp_avg", "exp_avg_sq")
        decay = group["weight_decay"] if decouple else 0.0
        if kernels := self.kernels_for(parameters, averages, squares):
            kernels.dadapt_adam_move(still, [parameters, averages, squares], step_size, group["eps"], decay)
            return
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_add_(denominators, group["eps"])
        changes = torch._foreach_div(averages, denominators)
        if decay != 0:
            torch._foreach_add_(changes, scaled(parameters, decay * step_size))
        move_unless(still, parameters, changes, 1.0)


class DAdaptAdam(AdaptedAdam, dadaptation.DAdaptAdam):
    """The package's class with another `step`."""

    one_pass = ("dadapt_adam_averages", "dadapt_adam_move")

    def _step_size(self, first, rate):
        distance, _, steps = self.scalars(FOUND)
        return distance * rate * self.bias_correction(first, steps)

    def _estimate(self, sums, rate, step_size):
        return self._estimate_distance(sums, rate, self.param_groups[0]["growth_rate"])

    def _update_averages(self, group, parameters, gradients, step_size):
        """Moves the running averages on; returns these parameters' share in numerator and denominator, (2,)."""
        beta1, beta2 = self.param_groups[0]["betas"]
        scale = group["layer_scale"]
        averages, squares, sums = self.states(parameters, "exp_avg", "exp_avg_sq", "s")
        if kernels := self.kernels_for(gradients, averages, squares, sums):
            lists = [gradients, averages, squares, sums]
            along, size = kernels.dadapt_adam_averages(self.found_inf, lists, step_size, (beta1, beta2), group["eps"], scale).unbind()
            return torch.stack([along * (scale * step_size), size * scale])
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_add_(denominators, group["eps"])
        numerator = products_sum(gradients, torch._foreach_div(sums, denominators)) * (scale * step_size)
        self.average(squares, torch._foreach_mul(gradients, gradients), 1 - beta2)
        changes = scaled(gradients, step_size)
        self.average(sums, changes, 1 - beta2**0.5)
        if scale != 1:
            torch._foreach_mul_(changes, scale)
        self.average(averages, changes, 1 - beta1)
        return torch.stack([numerator, absolute_sum(sums) * scale])


class DAdaptAdamPreprint(AdaptedAdam, dadaptation.experimental.DAdaptAdamPreprint):
    """The package's class with another `step`; --optimizer_type DAdaptation."""

    one_pass = ("dadapt_preprint_averages", "dadapt_adam_move")

    def _move(self, group, parameters, decouple, step_size, still):
        super()._move(group, parameters, decouple and group["lr"] > 0, step_size, still)

    def _step_size(self, first, rate):
        return self.scalars(FOUND_BY_SQUARES)[0] * rate

    def _update_averages(self, group, parameters, gradients, step_size):
        """Moves the running averages on; returns the sums of gradient^2 and s^2, each over the denominators, and of |s|, (3,)."""
        beta1, beta2 = self.param_groups[0]["betas"]
        lists = [gradients, *self.states(parameters, "exp_avg", "exp_avg_sq", "s")]
        if kernels := self.kernels_for(*lists):
            return kernels.dadapt_preprint_averages(self.found_inf, lists, step_size, (beta1, beta2), group["eps"])
        _, averages, squares, sums = lists
        gradient_squares = torch._foreach_mul(gradients, gradients)
        self.average(squares, gradient_squares, 1 - beta2)
        changes = scaled(gradients, step_size)
        self.average(averages, changes, 1 - beta1)
        self.average(sums, changes, 1 - beta2)
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_add_(denominators, group["eps"])
        torch._foreach_div_(gradient_squares, denominators)
        along = products_sum(sums, torch._foreach_div(sums, denominators))
        return torch.stack([absolute_sum(gradient_squares), along, absolute_sum(sums)])

    def _estimate(self, sums, rate, step_size):
        return self._estimate_from_squares(torch.stack(sums).sum(dim=0), rate, step_size, self.param_groups[0]["betas"][1])


class DAdaptLion(Adapted, dadaptation.DAdaptLion):
    """The package's class with another `step`."""

    one_pass = ("dadapt_lion",)

    def _step(self, rate):
        step_size = self.scalars(FOUND)[0] * rate
        sums = []
        for group in self.param_groups:
            for parameters, gradients in self.parts(group):
                sums.append(self._step_part(group, parameters, gradients, step_size))
        if sums:
            self._estimate_distance(sums, rate)

    def _step_part(self, group, parameters, gradients, step_size):
        """Moves the parameters; returns these parameters' share in numerator and denominator, (2,)."""
        beta1, beta2 = self.param_groups[0]["betas"]
        for parameter in parameters:
            if "exp_avg" not in self.state[parameter]:
                self.state[parameter].update({name: torch.zeros_like(parameter) for name in ("exp_avg", "s")})
        averages, sums = self.states(parameters, "exp_avg", "s")
        if kernels := self.kernels_for(parameters, gradients, averages, sums):
            lists = [parameters, gradients, averages, sums]
            along, size = kernels.dadapt_lion(self.found_inf, lists, step_size, (beta1, beta2), group["weight_decay"]).unbind()
            return torch.stack([along * step_size, size])
        updates = torch._foreach_mul(averages, beta1)
        torch._foreach_add_(updates, gradients, alpha=1 - beta1)
        torch._foreach_sign_(updates)
        self.move(parameters, updates, step_size, decay=group["weight_decay"])
        self.average(averages, scaled(gradients, step_size), 1 - beta2)
        numerator = products_sum(updates, sums) * step_size
        self.average(sums, scaled(updates, step_size), 1 - beta2**0.5)
        return torch.stack([numerator, absolute_sum(sums)])
