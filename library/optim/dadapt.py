"""D-Adaptation (arXiv:2301.07733) of Adam and Lion on all tensors at once; numbers and state are those of dadaptation.

Per step the host reads two scalars together, the numerator and denominator of the distance estimate d.
"""

import dadaptation
import torch

from library.optim.multi_tensor import absolute_sum, products_sum, with_gradients


class DAdaptAdam(dadaptation.DAdaptAdam):
    """The package's class with another `step`. Its own logging and sharded training go the package's way."""

    def step(self, closure=None):
        if any(group["log_every"] or group["fsdp_in_use"] for group in self.param_groups):
            return super().step(closure)
        loss = None
        if closure is not None:
            loss = closure()
        with torch.no_grad():
            self._step()
        return loss

    def _step(self):
        first = self.param_groups[0]
        rate = _only_rate(self.param_groups)
        beta1, beta2 = first["betas"]
        k, decouple = first["k"], first["decouple"]
        correction = (1 - beta2 ** (k + 1)) ** 0.5 / (1 - beta1 ** (k + 1)) if first["use_bias_correction"] else 1
        step_size = first["d"] * rate * correction

        sums = []
        for group in self.param_groups:
            for parameters, gradients in with_gradients(group):
                self._prepare(parameters)
                if group["weight_decay"] != 0 and not decouple:
                    torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
                if group["lr"] > 0.0:
                    sums.append(self._update_averages(group, parameters, gradients, step_size))
        if not sums or not _estimate_distance(self.param_groups, sums, beta2**0.5, first["growth_rate"]):
            return
        for group in self.param_groups:
            for parameters, _ in with_gradients(group):
                self._move(group, parameters, decouple, step_size)
            group["k"] += 1

    def _prepare(self, parameters):
        for parameter in parameters:
            state = self.state[parameter]
            if "step" not in state:
                state["step"] = 0
                state.update({name: torch.zeros_like(parameter) for name in ("s", "exp_avg", "exp_avg_sq")})

    def _update_averages(self, group, parameters, gradients, step_size):
        """Moves the running averages on; returns these parameters' share in numerator and denominator, (2,)."""
        beta1, beta2 = self.param_groups[0]["betas"]
        sqrt_beta2, scale = beta2**0.5, group["layer_scale"]
        sums, averages, squares = ([self.state[parameter][name] for parameter in parameters] for name in ("s", "exp_avg", "exp_avg_sq"))
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_add_(denominators, group["eps"])
        numerator = products_sum(gradients, torch._foreach_div(sums, denominators)) * (scale * step_size)
        torch._foreach_mul_(averages, beta1)
        torch._foreach_add_(averages, gradients, alpha=scale * step_size * (1 - beta1))
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
        torch._foreach_mul_(sums, sqrt_beta2)
        torch._foreach_add_(sums, gradients, alpha=step_size * (1 - sqrt_beta2))
        return torch.stack([numerator, absolute_sum(sums) * scale])

    def _move(self, group, parameters, decouple, step_size):
        for parameter in parameters:
            self.state[parameter]["step"] += 1
        denominators = torch._foreach_sqrt([self.state[parameter]["exp_avg_sq"] for parameter in parameters])
        torch._foreach_add_(denominators, group["eps"])
        if group["weight_decay"] != 0 and decouple:
            torch._foreach_mul_(parameters, 1 - group["weight_decay"] * step_size)
        torch._foreach_addcdiv_(parameters, [self.state[parameter]["exp_avg"] for parameter in parameters], denominators, value=-1)


class DAdaptLion(dadaptation.DAdaptLion):
    """The package's class with another `step`. Its own logging and sharded training go the package's way."""

    @torch.no_grad()
    def step(self, closure=None):
        if any(group["log_every"] or group["fsdp_in_use"] for group in self.param_groups):
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        first = self.param_groups[0]
        step_size = first["d"] * _only_rate(self.param_groups)
        sums = []
        for group in self.param_groups:
            for parameters, gradients in with_gradients(group):
                sums.append(self._step_part(group, parameters, gradients, step_size))
        if sums and _estimate_distance(self.param_groups, sums, first["betas"][1] ** 0.5):
            for group in self.param_groups:
                group["k"] += 1
        return loss

    def _step_part(self, group, parameters, gradients, step_size):
        """Moves the parameters; returns these parameters' share in numerator and denominator, (2,)."""
        beta1, beta2 = self.param_groups[0]["betas"]
        sqrt_beta2 = beta2**0.5
        for parameter in parameters:
            if "exp_avg" not in self.state[parameter]:
                self.state[parameter].update({name: torch.zeros_like(parameter) for name in ("exp_avg", "s")})
        averages, sums = ([self.state[parameter][name] for parameter in parameters] for name in ("exp_avg", "s"))
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - step_size * group["weight_decay"])
        updates = torch._foreach_mul(averages, beta1)
        torch._foreach_add_(updates, gradients, alpha=1 - beta1)
        torch._foreach_sign_(updates)
        torch._foreach_add_(parameters, updates, alpha=-step_size)
        torch._foreach_mul_(averages, beta2)
        torch._foreach_add_(averages, gradients, alpha=(1 - beta2) * step_size)
        numerator = products_sum(updates, sums) * step_size
        torch._foreach_mul_(sums, sqrt_beta2)
        torch._foreach_add_(sums, updates, alpha=(1 - sqrt_beta2) * step_size)
        return torch.stack([numerator, absolute_sum(sums)])


def _only_rate(param_groups: list[dict]) -> float:
    rate = max(group["lr"] for group in param_groups)
    if any(group["lr"] not in (rate, 0.0) for group in param_groups):
        raise RuntimeError("D-Adaptation allows one learning rate (or 0) for all parameter groups; layer_scale may differ")
    return rate


def _estimate_distance(param_groups: list[dict], sums: list[torch.Tensor], sqrt_beta2: float, growth_rate: float = float("inf")) -> bool:
    """Writes the new estimate into every group; False when nothing has moved yet. sums: one (2,) per group."""
    accumulated, denominator = torch.stack(sums).sum(dim=0).tolist()
    if denominator == 0:
        return False
    first = param_groups[0]
    weighted = sqrt_beta2 * first["numerator_weighted"] + (1 - sqrt_beta2) * accumulated
    distance = first["d"]
    if any(group["lr"] > 0.0 for group in param_groups):
        estimate = weighted / ((1 - sqrt_beta2) * denominator)
        distance = max(distance, min(estimate, distance * growth_rate))
    for group in param_groups:
        group["numerator_weighted"], group["d"] = weighted, distance
    return True
