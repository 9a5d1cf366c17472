"""D-Adaptation (arXiv:2301.07733) of Adan (arXiv:2208.06677), in both forms, on all tensors at once; the package's numbers and state."""

import dadaptation
import dadaptation.experimental
import torch

from library.optim.dadapt import Adapted
from library.optim.multi_tensor import absolute_sum, move_unless, products_sum, scaled


class _AdaptedAdan(Adapted):
    """Two passes over the tensors: averages of gradients, of their differences and of squares, then the step with the old d.

    SQUARES, DIFFERENCES: where the state keeps the averages of squares and of differences.
    """

    first_rate_for_all = True
    SQUARES, DIFFERENCES = "exp_avg_sq", "exp_avg_diff"

    def _step(self, rate):
        distance, steps = self.scalars(("d", "k"))
        step_size, nothing_moved = distance * rate, (steps == 0).float()
        sums = []
        for group in self.param_groups:
            for parameters, gradients in self.parts(group):
                self._prepare(parameters, gradients, nothing_moved)
                sums.append(self._update_averages(group, parameters, gradients, step_size))
        if not sums:
            return
        still = self._estimate(torch.stack(sums).sum(dim=0), rate, step_size)
        for group in self.param_groups:
            for parameters, gradients in self.parts(group):
                self._move(group, parameters, gradients, step_size, still)
                self.count(parameters)

    def _prepare(self, parameters, gradients, nothing_moved):
        """A parameter's first gradient counts as the one before it too, and so does any as long as `nothing_moved` is 1."""
        for parameter in parameters:
            state = self.state[parameter]
            if "step" not in state:
                state["step"] = 0
                state.update({name: torch.zeros_like(parameter) for name in ("s", "exp_avg", "exp_avg_diff", "exp_avg_sq")})
            if state["step"] == 0:
                state["pre_grad"] = parameter.grad.clone()
        self.move(self.states(parameters, "pre_grad")[0], gradients, -nothing_moved, decay=-1.0)

    def _average_all(self, parameters, gradients, step_size):
        """Moves the running averages on, s among them."""
        beta1, beta2, beta3 = self.param_groups[0]["betas"]
        averages, squares, differences, sums, before = self.states(
            parameters, "exp_avg", self.SQUARES, self.DIFFERENCES, "s", "pre_grad"
        )
        apart = torch._foreach_sub(gradients, before)
        changes = scaled(gradients, step_size)
        self.average(averages, changes, 1 - beta1)
        self.average(sums, changes, 1 - beta3)
        self.average(differences, scaled(apart, step_size), 1 - beta2)
        torch._foreach_mul_(apart, beta2)
        torch._foreach_add_(apart, gradients)
        torch._foreach_mul_(apart, apart)
        self.average(squares, apart, 1 - beta3)

    def _denominators(self, group, parameters):
        (squares,) = self.states(parameters, self.SQUARES)
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_add_(denominators, group["eps"])
        return denominators

    def _move(self, group, parameters, gradients, step_size, still):
        averages, differences, before = self.states(parameters, "exp_avg", self.DIFFERENCES, "pre_grad")
        changes = torch._foreach_add(averages, differences, alpha=self.param_groups[0]["betas"][1])
        torch._foreach_div_(changes, self._denominators(group, parameters))
        rate = 1.0
        if group["weight_decay"] != 0:
            shrinking = step_size * group["weight_decay"]
            torch._foreach_add_(changes, scaled(parameters, shrinking))
            rate = 1.0 if self.param_groups[0]["no_prox"] else 1 / (1 + shrinking)
        move_unless(still, parameters, changes, rate)
        move_unless(still, before, gradients, -1.0, decay=-1.0)


class DAdaptAdan(_AdaptedAdan, dadaptation.DAdaptAdan):
    """The package's class with another `step`."""

    def _update_averages(self, group, parameters, gradients, step_size):
        """Returns the sums of gradient^2 / denominator, of s^2 / denominator and of |s|, the new ones, (3,)."""
        self._average_all(parameters, gradients, step_size)
        denominators = self._denominators(group, parameters)
        (sums,) = self.states(parameters, "s")
        squares = products_sum(gradients, torch._foreach_div(gradients, denominators))
        return torch.stack([squares, products_sum(sums, torch._foreach_div(sums, denominators)), absolute_sum(sums)])

    def _estimate(self, sums, rate, step_size):
        return self._estimate_from_squares(sums, rate, step_size, self.param_groups[0]["betas"][2])


class DAdaptAdanIP(_AdaptedAdan, dadaptation.experimental.DAdaptAdanIP):
    """The package's class with another `step`. It keeps the two averages under each other's names, and so does this one."""

    SQUARES, DIFFERENCES = "exp_avg_diff", "exp_avg_sq"

    def _update_averages(self, group, parameters, gradients, step_size):
        """Returns the sums of gradient * s / denominator, the old ones, times the step size, and of |s|, the new one, (2,)."""
        (sums,) = self.states(parameters, "s")
        along = products_sum(gradients, torch._foreach_div(sums, self._denominators(group, parameters))) * step_size
        self._average_all(parameters, gradients, step_size)
        return torch.stack([along, absolute_sum(sums)])

    def _estimate(self, sums, rate, step_size):
        """Writes the new estimate into every group; returns 1 where nothing has moved yet or the step is left out."""
        first = self.param_groups[0]
        beta3 = first["betas"][2]
        distance, weighted, steps = self.scalars(("d", "numerator_weighted", "k"))
        along, size = sums.unbind()
        weighted = beta3 * weighted + (1 - beta3) * along
        if rate > 0.0:
            estimate = 2 * (beta3 / (1 - beta3)) * weighted / size
            distance = torch.maximum(distance, torch.minimum(estimate, distance * first["growth_rate"]))
        return self.keep({"d": distance, "numerator_weighted": weighted, "k": steps + 1}, size)
