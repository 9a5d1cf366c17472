"""What --torch_compile leaves to the compiler: inside the blocks that it compiles no function is replaced.

It fuses norms and gates itself, and a replaced function, which belongs to one layer, would make it take two blocks of one shape for
different ones and compile each of them.
"""

from collections.abc import Collection

from torch import nn


def outside(model: nn.Module, compiled: Collection[nn.Module]) -> list[nn.Module]:
    """The modules of `model` that are neither one of the compiled blocks nor inside one."""
    inside = {id(module) for block in compiled for module in block.modules()}
    return [module for module in model.modules() if id(module) not in inside]
