"""Low-precision copies of adapter weights, so that a step under autocast casts all of them at once and not each at every use.

The weights the optimizer sees stay fp32. The modules compute with the copies, which are the leaves that autograd knows; `gather`
hands their gradients on and `refresh` follows the weights. The numbers are those of autocast, which rounds to the same dtype.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from networks.layers import LoRAModule


class Shadow:
    """The copies of one network. Call `refresh` after every change of the weights and `gather` after every backward."""

    def __init__(self, modules: Sequence[LoRAModule], dtype: torch.dtype):
        self.weights: list[nn.Parameter] = [weight for module in modules for weight in (module.lora_down.weight, module.lora_up.weight)]
        self.copies: list[Tensor] = [weight.detach().to(dtype).requires_grad_(weight.requires_grad) for weight in self.weights]
        self.gradients = [torch.zeros_like(weight) if weight.requires_grad else None for weight in self.weights]
        pairs = zip(self.copies[::2], self.copies[1::2], strict=True)
        for module, pair in zip(modules, pairs, strict=True):
            module.shadow = pair

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes over the weights' values."""
        torch._foreach_copy_(self.copies, self.weights)

    @torch.no_grad()
    def gather(self) -> None:
        """Moves the copies' gradients to the weights, adding to what is there already."""
        fresh, added = ([], []), ([], [])
        for weight, copy, buffer in zip(self.weights, self.copies, self.gradients, strict=True):
            if copy.grad is None:
                continue
            pair = fresh if weight.grad is None else added
            if weight.grad is None:
                weight.grad = buffer
            pair[0].append(weight.grad)
            pair[1].append(copy.grad)
            copy.grad = None
        if fresh[0]:
            torch._foreach_copy_(*fresh)
        if added[0]:
            torch._foreach_add_(*added)
