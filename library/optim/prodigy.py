"""Prodigy (arXiv:2306.06101, algorithm 4) on all tensors at once; numbers and state are those of prodigyopt.

Per step the host reads two scalars together, the numerator and denominator of the distance estimate d.
"""

import math

import prodigyopt
import torch

from library.optim.multi_tensor import absolute_sum, products_sum, with_gradients


class Prodigy(prodigyopt.Prodigy):
    """The package's class with another `step`. Sliced statistics and sharded training go the package's way."""

    def step(self, closure=None):
        if any(group.get("slice_p", 1) != 1 or group.get("fsdp_in_use") for group in self.param_groups):
            return super().step(closure)
        loss = None
        if closure is not None:
            loss = closure()
        with torch.no_grad():
            self._step()
        return loss

    def _step(self):
        first = self.param_groups[0]
        rate = max(group["lr"] for group in self.param_groups)
        if any(group["lr"] not in (rate, 0.0) for group in self.param_groups):
            raise RuntimeError("Prodigy allows one learning rate (or 0) for all parameter groups")
        beta1, beta2 = first["betas"]
        beta3 = math.sqrt(beta2) if first["beta3"] is None else first["beta3"]
        distance, k = first["d"], first["k"]
        correction = (1 - beta2 ** (k + 1)) ** 0.5 / (1 - beta1 ** (k + 1)) if first["use_bias_correction"] else 1
        step_size = distance * rate * correction

        numerators, denominators = [], []
        for group in self.param_groups:
            for parameters, gradients in with_gradients(group):
                self._prepare(parameters, beta1)
                if group["weight_decay"] != 0 and not first["decouple"]:
                    torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
                if group["lr"] > 0.0:
                    numerators.append(self._moved(parameters, gradients) * (distance / group["d0"] * step_size))
                    denominators.append(self._update_averages(group, parameters, gradients, beta3, step_size))
        if not denominators:
            return
        delta, denominator = torch.stack([torch.stack(numerators).sum(), torch.stack(denominators).sum()]).tolist()
        if denominator == 0:
            return
        self._estimate_distance(first["d_numerator"] * beta3 + delta, denominator)
        for group in self.param_groups:
            for parameters, gradients in with_gradients(group):
                self._move(group, parameters, gradients, beta1, step_size)
            group["k"] += 1

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

    def _update_averages(self, group, parameters, gradients, beta3, step_size):
        """Moves the running averages on; returns the sum of |s|."""
        first = self.param_groups[0]
        distance, (beta1, beta2) = first["d"], first["betas"]
        if beta1 > 0:
            averages = [self.state[parameter]["exp_avg"] for parameter in parameters]
            torch._foreach_mul_(averages, beta1)
            torch._foreach_add_(averages, gradients, alpha=distance * (1 - beta1))
        squares = [self.state[parameter]["exp_avg_sq"] for parameter in parameters]
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=distance * distance * (1 - beta2))
        sums = [self.state[parameter]["s"] for parameter in parameters]
        weight = distance if group["safeguard_warmup"] else step_size
        torch._foreach_mul_(sums, beta3)
        torch._foreach_add_(sums, [gradient.reshape(-1) for gradient in gradients], alpha=distance / group["d0"] * weight)
        return absolute_sum(sums)

    def _estimate_distance(self, numerator, denominator):
        first = self.param_groups[0]
        distance = first["d"]
        estimate = first["d_coef"] * numerator / denominator
        if distance == first["d0"]:
            distance = max(distance, estimate)
        highest = max(first["d_max"], estimate)
        distance = min(highest, distance * first["growth_rate"])
        found = {"d_numerator": numerator, "d_denom": denominator, "d": distance, "d_max": highest, "d_hat": estimate}
        for group in self.param_groups:
            group.update(found)

    def _move(self, group, parameters, gradients, beta1, step_size):
        first = self.param_groups[0]
        distance = first["d"]
        for parameter in parameters:
            self.state[parameter]["step"] += 1
        scales = torch._foreach_sqrt([self.state[parameter]["exp_avg_sq"] for parameter in parameters])
        torch._foreach_add_(scales, distance * group["eps"])
        if group["weight_decay"] != 0 and first["decouple"]:
            torch._foreach_mul_(parameters, 1 - group["weight_decay"] * step_size)
        if beta1 > 0:
            torch._foreach_addcdiv_(parameters, [self.state[parameter]["exp_avg"] for parameter in parameters], scales, value=-step_size)
        else:
            torch._foreach_addcdiv_(parameters, gradients, scales, value=-step_size * distance)
