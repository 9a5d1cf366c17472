"""Prodigy (arXiv:2306.06101, algorithm 4) on all tensors at once; numbers and state are those of prodigyopt.

The distance estimate d and what it is made of stay on the device: a step reads nothing on the host, but for the first one of each
parameter, which asks whether it starts at zero.
"""

import math

import prodigyopt
import torch

from library.optim.multi_tensor import MultiTensorStep, absolute_sum, move_unless, products_sum, scaled

FOUND = ("d", "d_max", "d_numerator", "k")  # and, from the first step on, d_denom and d_hat


class Prodigy(MultiTensorStep, prodigyopt.Prodigy):
    """The package's class with another `step`. Sliced statistics and sharded training go the package's way."""

    one_pass = ("prodigy_averages", "prodigy_move")

    def leaves_out(self) -> bool:
        return self.knows_float64() and not any(group.get("slice_p", 1) != 1 or group.get("fsdp_in_use") for group in self.param_groups)

    def step(self, closure=None):
        if not self.leaves_out():
            return super().step(closure)
        loss = None
        if closure is not None:
            loss = closure()
        with torch.no_grad():
            self._step()
        return loss

    def _step(self):
        self._counted = []
        first = self.param_groups[0]
        rate = max(group["lr"] for group in self.param_groups)
        if any(group["lr"] not in (rate, 0.0) for group in self.param_groups):
            raise RuntimeError("Prodigy allows one learning rate (or 0) for all parameter groups")
        beta1, beta2 = first["betas"]
        beta3 = math.sqrt(beta2) if first["beta3"] is None else first["beta3"]
        distance, highest, numerator, steps = self.scalars(FOUND)
        step_size = distance * rate * self.bias_correction(first, steps)

        sums = []
        for group in self.param_groups:
            for parameters, gradients in self.parts(group):
                self._prepare(parameters, beta1)
                if group["weight_decay"] != 0 and not first["decouple"]:
                    torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
                if group["lr"] > 0.0:
                    weight = distance / group["d0"] * (distance if group["safeguard_warmup"] else step_size)
                    moved, size = self._update_averages(parameters, gradients, beta3, distance, weight).unbind()
                    sums.append(torch.stack([moved * (distance / group["d0"] * step_size), size]))
        if not sums:
            return
        moved, denominator = torch.stack(sums).sum(dim=0).unbind()
        numerator = numerator * beta3 + moved
        estimate = first["d_coef"] * numerator / denominator
        grown = torch.where(distance == first["d0"], torch.maximum(distance, estimate), distance)
        highest = torch.maximum(highest, estimate)
        found = {"d_numerator": numerator, "d_denom": denominator, "d_max": highest, "d_hat": estimate, "k": steps + 1}
        found["d"] = torch.minimum(highest, grown * first["growth_rate"])
        still = self.keep(found, denominator)
        for group in self.param_groups:
            for parameters, gradients in self.parts(group):
                self._move(group, parameters, gradients, step_size, still)

    def _prepare(self, parameters, beta1):
        fresh = [parameter for parameter in parameters if "step" not in self.state[parameter]]
        if not fresh:
            return
        nonzero = torch.stack([parameter.any() for parameter in fresh]).tolist()
        for parameter, stored in zip(fresh, nonzero, strict=True):
            state = self.state[parameter]
            state["step"] = 0
            state["s"] = torch.zeros_like(parameter.flatten())
            state["p0"] = parameter.flatten().clone() if stored else torch.tensor(0, device=parameter.device, dtype=parameter.dtype)
            if beta1 > 0:
                state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)

    def _moved(self, parameters, gradients):
        """Gradients times the way back to the starting point, summed. A start at zero is stored as one number."""
        from_zero, elsewhere = [], []
        for parameter, gradient in zip(parameters, gradients, strict=True):
            start = self.state[parameter]["p0"]
            (elsewhere if start.dim() else from_zero).append((gradient.reshape(-1), parameter.reshape(-1), start))
        moved = torch.zeros((), dtype=torch.float64, device=parameters[0].device)
        if from_zero:
            flat_gradients, flat_parameters, _ = zip(*from_zero, strict=True)
            moved -= products_sum(flat_gradients, flat_parameters)
        if elsewhere:
            flat_gradients, flat_parameters, starts = zip(*elsewhere, strict=True)
            moved += products_sum(flat_gradients, torch._foreach_sub(starts, flat_parameters))
        return moved

    def _update_averages(self, parameters, gradients, beta3, distance, weight):
        """Moves the running averages on; returns (gradients times the way back to the starting point, |s|), summed, (2,)."""
        beta1, beta2 = self.param_groups[0]["betas"]
        averages, squares, sums, starts = self.states(parameters, "exp_avg", "exp_avg_sq", "s", "p0")
        lists = [parameters, gradients, [start if start.dim() else None for start in starts], averages, squares, sums]
        if beta1 > 0 and (kernels := self.kernels_for(*lists)):
            return kernels.prodigy_averages(self.found_inf, lists, distance, weight, (beta1, beta2, beta3))
        moved = self._moved(parameters, gradients)
        changes = scaled(gradients, distance)
        if beta1 > 0:
            self.average(averages, changes, 1 - beta1)
        torch._foreach_mul_(changes, changes)
        self.average(squares, changes, 1 - beta2)
        self.move(sums, scaled([gradient.reshape(-1) for gradient in gradients], weight), -1.0, decay=beta3 - 1)
        return torch.stack([moved, absolute_sum(sums)])

    def _move(self, group, parameters, gradients, step_size, still):
        """The step itself, with the new d. still: 1 where nothing is to move."""
        first = self.param_groups[0]
        decay = group["weight_decay"] if first["decouple"] else 0.0
        averages, squares = self.states(parameters, "exp_avg", "exp_avg_sq")
        self.count(parameters)
        if first["betas"][0] > 0 and (kernels := self.kernels_for(parameters, averages, squares)):
            kernels.prodigy_move(still, [parameters, averages, squares], step_size, first["d"] * group["eps"], decay)
            return
        scales = torch._foreach_sqrt(squares)
        # by its full name, as torch._foreach_add_ would read the scalar on the host
        torch.ops.aten._foreach_add_.Tensor(scales, (first["d"] * group["eps"]).to(scales[0].dtype))
        changes = torch._foreach_div(averages if first["betas"][0] > 0 else scaled(gradients, first["d"]), scales)
        move_unless(still, parameters, changes, step_size, decay=decay)
