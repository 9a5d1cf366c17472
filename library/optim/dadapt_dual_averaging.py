"""D-Adaptation (arXiv:2301.07733) of SGD and AdaGrad on all tensors at once; numbers and state are dadaptation's.

Both are dual averaging: a parameter is drawn to its starting point less the sum of all steps, s.
"""

import dadaptation
import torch

from library.optim.dadapt import Adapted
from library.optim.multi_tensor import absolute_sum, move_unless, products_sum


class DAdaptSGD(Adapted, dadaptation.DAdaptSGD):
    """The package's class with another `step`. At a rate of 0, as at the start of a warm-up, nothing is done; the package divides by 0."""

    def _step(self, rate):
        if rate == 0.0:
            return
        first = self.param_groups[0]
        first.setdefault("g0_norm", 0.0)
        distance, weighted, steps, norm = self.scalars(("d", "numerator_weighted", "k", "g0_norm"))
        trained = [group for group in self.param_groups if group["lr"] > 0.0]
        squares = [products_sum(gradients, gradients) for group in trained for _, gradients in self.parts(group)]
        if not squares:
            return
        norm = torch.where(steps == 0, torch.stack(squares).sum().sqrt(), norm)
        step_size = torch.where(norm == 0, 0.0, distance * rate / norm)
        found = [self._add(parameters, gradients, step_size) for group in trained for parameters, gradients in self.parts(group)]
        along, size = torch.stack(found).sum(dim=0).unbind()
        weighted = weighted + step_size * along
        estimate = 2 * weighted / size.sqrt()
        distance = torch.maximum(distance, torch.minimum(estimate, distance * first["growth_rate"]))
        still = self.keep({"d": distance, "numerator_weighted": weighted, "g0_norm": norm, "k": steps + 1}, size)
        for group in self.param_groups:
            for parameters, _ in self.parts(group):
                self._prepare(parameters)
                sums, starts, places = self.states(parameters, "s", "x0", "z")
                torch._foreach_copy_(places, torch._foreach_sub(starts, sums))
                move_unless(still, parameters, places, first["momentum"] - 1, decay=-1.0)

    def _prepare(self, parameters):
        for parameter in parameters:
            state = self.state[parameter]
            if "z" not in state:
                state.update(z=parameter.detach().clone(), s=torch.zeros_like(parameter), x0=parameter.detach().clone())

    def _add(self, parameters, gradients, step_size):
        """Moves s on; returns the sums of gradient * s, the old one, and of s^2, the new one, (2,)."""
        self._prepare(parameters)
        if decay := self.param_groups[0]["weight_decay"]:
            torch._foreach_add_(gradients, parameters, alpha=decay)
        (sums,) = self.states(parameters, "s")
        along = products_sum(gradients, sums)
        self.move(sums, gradients, -step_size)
        return torch.stack([along, products_sum(sums, sums)])


class DAdaptAdaGrad(Adapted, dadaptation.DAdaptAdaGrad):
    """The package's class with another `step`."""

    first_rate_for_all = True

    def _step(self, rate):
        first = self.param_groups[0]
        distance, of_gradients, of_sums, size, steps = self.scalars(("d", "gsq_weighted", "sksq_weighted", "skl1", "k"))
        step_size = distance * rate
        found = [self._add(group, *part, step_size) for group in self.param_groups for part in self.parts(group)]
        if not found:
            return
        squares, along, more = torch.stack(found).sum(dim=0).unbind()
        of_gradients, of_sums, size = of_gradients + step_size**2 * squares, of_sums + along, size + more
        if rate > 0.0:
            estimate = (of_sums - of_gradients) / size
            distance = torch.maximum(distance, torch.minimum(estimate, distance * first["growth_rate"]))
        still = self.keep({"d": distance, "gsq_weighted": of_gradients, "sksq_weighted": of_sums, "skl1": size, "k": steps + 1}, size)
        for group in self.param_groups:
            for parameters, _ in self.parts(group):
                places = torch._foreach_div(*self._sums_and_denominators(group, parameters))
                torch._foreach_neg_(places)
                torch._foreach_add_(places, self.states(parameters, "x0")[0])
                move_unless(still, parameters, places, first["momentum"] - 1, decay=-1.0)

    def _sums_and_denominators(self, group, parameters):
        sums, alphas = self.states(parameters, "sk", "alphak")
        denominators = torch._foreach_sqrt(alphas)
        torch._foreach_add_(denominators, group["eps"])
        return sums, denominators

    def _weighted(self, group, parameters):
        """The sums of s^2 / denominator and of |s|, (2,)."""
        sums, denominators = self._sums_and_denominators(group, parameters)
        return torch.stack([products_sum(sums, torch._foreach_div(sums, denominators)), absolute_sum(sums)])

    def _add(self, group, parameters, gradients, step_size):
        """Moves s and its denominators on; returns the sum of gradient^2 / denominator and what `_weighted` has grown by, (3,)."""
        for parameter in parameters:
            state = self.state[parameter]
            if "alphak" not in state:
                state.update(alphak=torch.full_like(parameter, 1e-6), sk=torch.zeros_like(parameter), x0=parameter.detach().clone())
        if group["weight_decay"] != 0:
            torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
        before = self._weighted(group, parameters)
        sums, alphas = self.states(parameters, "sk", "alphak")
        self.move(alphas, torch._foreach_mul(gradients, gradients), -1.0)
        self.move(sums, gradients, -step_size)
        _, denominators = self._sums_and_denominators(group, parameters)
        squares = products_sum(gradients, torch._foreach_div(gradients, denominators))
        return torch.cat([squares[None], self._weighted(group, parameters) - before])
