"""Low-precision copies of adapter weights, so that a step under autocast casts all of them at once and not each at every use.

The weights the optimizer sees stay fp32. The modules compute with the copies, which are the leaves that autograd knows; `gather`
hands their gradients on and `refresh` follows the weights. The numbers are those of autocast, which rounds to the same dtype.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from networks.layers import LoRAModule
from networks.shared_inputs import SharedInput


class Shadow:
    """The copies of one network. Call `refresh` after every change of the weights and `gather` after every backward."""

    def __init__(self, modules: Sequence[LoRAModule], dtype: torch.dtype, groups: Sequence[SharedInput] = ()):
        """groups: of some of the modules, whose copies lie together in memory."""
        self.weights: list[nn.Parameter] = [weight for module in modules for weight in (module.lora_down.weight, module.lora_up.weight)]
        together = {id(module): pair for group in groups for module, pair in zip(group.modules, group.pairs, strict=True)}
        for module in modules:
            module.shadow = together.get(id(module)) or copies_of(module, dtype)
        self.copies: list[Tensor] = [copy for module in modules for copy in module.shadow]
        self.gradients = [torch.zeros_like(weight) if weight.requires_grad else None for weight in self.weights]

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


def copies_of(module: LoRAModule, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The module's down and up in `dtype`, as leaves of their own."""
    down, up = (layer.weight for layer in (module.lora_down, module.lora_up))
    return down.detach().to(dtype).requires_grad_(down.requires_grad), up.detach().to(dtype).requires_grad_(up.requires_grad)
