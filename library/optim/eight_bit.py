"""The 8-bit optimizers of bitsandbytes without its wait for the GPU after each tensor.

The package synchronises after every one of a LoRA's hundreds of tensors, which only states in paged memory would need. AdamW is one
kernel over all tensors besides, where Triton runs, and then the step can be left out on the device.
"""

from collections import defaultdict
from collections.abc import Sequence

import bitsandbytes.optim
import torch
from torch import Tensor

from library.optim.multi_tensor import MultiTensorStep

USUAL = {"max_unorm": 0.0, "skip_zeros": False, "percentile_clipping": 100, "block_wise": True}  # the last two until version 0.47


class _WithoutWaits(MultiTensorStep):
    """The package's class with another `step`. Numbers and state are the package's."""

    def leaves_out(self) -> bool:
        return False

    @torch.no_grad()
    def step(self, closure=None):
        self._counted = []
        if self.is_paged:  # such states lie in memory of both, and need the package's waits
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self.initialized:
            self.check_overrides()
            self.to_gpu()
            self.initialized = True
        for index, group in enumerate(self.param_groups):
            for place, parameter in enumerate(group["params"]):
                if parameter.grad is not None and not self.state[parameter]:
                    self.init_state(group, parameter, index, place)
            self._step_group(index, group)
        return loss

    def _step_group(self, index, group):
        for place, parameter in enumerate(group["params"]):
            if parameter.grad is not None:
                self.update_step(group, parameter, index, place)


class Lion8bit(_WithoutWaits, bitsandbytes.optim.Lion8bit):
    pass


class SGD8bit(_WithoutWaits, bitsandbytes.optim.SGD8bit):
    pass


class AdamW8bit(_WithoutWaits, bitsandbytes.optim.AdamW8bit):
    one_pass = ("adamw_small", "adamw_8bit")

    def leaves_out(self) -> bool:
        """By its kernels, which know neither the package's settings for single parameters nor what differs from `USUAL`."""
        if self.kernels is None or self.is_paged or self.mng.pid2config or self.mng.index2config:
            return False
        return all(getattr(self.args, name, usual) == usual for name, usual in USUAL.items())

    def _step_group(self, index, group):
        if not self.leaves_out():
            super()._step_group(index, group)
            return
        for parameter in group["params"]:
            if not parameter.is_contiguous():
                parameter.data = parameter.data.contiguous()
        for parameters, _ in self.parts(group):
            self.count(parameters)
            alike = defaultdict(list)  # large tensors have their states in bytes, small ones in fp32
            for parameter in parameters:
                state = self.state[parameter]
                alike[state["state1"].dtype, state["step"]].append(parameter)
            for (dtype, steps), own in alike.items():
                self._step_by_kernel(own, constants(group, steps), in_bytes=dtype == torch.uint8)

    def _step_by_kernel(self, parameters: Sequence[Tensor], numbers: Sequence[float], *, in_bytes: bool) -> None:
        gradients = [parameter.grad for parameter in parameters]
        if in_bytes:
            first = self.state[parameters[0]]
            lists = [parameters, gradients, *self.states(parameters, "state1", "state2", "absmax1", "absmax2")]
            self.kernels.adamw_8bit(self.found_inf, lists, torch.cat([first["qmap1"], first["qmap2"]]), *numbers)
        else:
            self.kernels.adamw_small(self.found_inf, [parameters, gradients, *self.states(parameters, "state1", "state2")], *numbers)


def constants(group: dict, steps: int) -> tuple[float, float, float, float, float]:
    """beta1, beta2, step size, eps and kept share of the weights in the step that is the `steps`-th."""
    beta1, beta2 = group["betas"][:2]
    rate, left1, left2 = group["lr"], 1 - beta1**steps, (1 - beta2**steps) ** 0.5
    return beta1, beta2, rate * left2 / left1, group["eps"] * left2, 1 - rate * group["weight_decay"]
