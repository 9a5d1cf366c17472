"""Lion (arXiv:2302.06675, algorithm 2) on all tensors at once; numbers and state are those of lion-pytorch."""

import lion_pytorch
import torch

from library.optim.multi_tensor import MultiTensorStep, on_device


class Lion(MultiTensorStep, lion_pytorch.Lion):
    """The package's class with another `step`, which can be left out on the device."""

    one_pass = ("lion",)

    @torch.no_grad()
    def step(self, closure=None):
        self._counted = []
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameters, gradients in self.parts(group):
                self._step_part(group, parameters, gradients)
        return loss

    def _step_part(self, group, parameters, gradients):
        rate, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
        if self.decoupled_wd:
            decay /= self._init_lr
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
        (averages,) = self.states(parameters, "exp_avg")
        if kernels := self.kernels_for(parameters, gradients, averages):
            kernels.lion(self.found_inf, [parameters, gradients, averages], on_device(rate, gradients[0].device), (beta1, beta2), decay)
            return
        updates = torch._foreach_mul(averages, beta1)
        torch._foreach_add_(updates, gradients, alpha=1.0 - beta1)
        torch._foreach_sign_(updates)
        self.move(parameters, updates, rate, decay=decay)
        self.average(averages, gradients, 1.0 - beta2)
