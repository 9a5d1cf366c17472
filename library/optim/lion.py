"""Lion (arXiv:2302.06675, algorithm 2) on all tensors at once; numbers and state are those of lion-pytorch."""

import lion_pytorch
import torch

from library.optim.multi_tensor import with_gradients


class Lion(lion_pytorch.Lion):
    """The package's class with another `step`."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameters, gradients in with_gradients(group):
                self._step_part(group, parameters, gradients)
        return loss

    def _step_part(self, group, parameters, gradients):
        rate, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
        if self.decoupled_wd:
            decay /= self._init_lr
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
        averages = [self.state[parameter]["exp_avg"] for parameter in parameters]
        if decay:
            torch._foreach_mul_(parameters, 1.0 - rate * decay)
        updates = torch._foreach_mul(averages, beta1)
        torch._foreach_add_(updates, gradients, alpha=1.0 - beta1)
        torch._foreach_sign_(updates)
        torch._foreach_add_(parameters, updates, alpha=-rate)
        torch._foreach_mul_(averages, beta2)
        torch._foreach_add_(averages, gradients, alpha=1.0 - beta2)
