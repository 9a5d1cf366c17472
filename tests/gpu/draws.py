"""Random numbers that are the same on every device."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DRAWS = {
    "bernoulli", "bernoulli_", "normal_", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "random_", "uniform_",
}  # fmt: skip


class DrawsOnTheCPU(TorchDispatchMode):
    """While it is on, numbers for a GPU are drawn by the CPU's generator and sent there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        device = torch.device(kwargs.get("device") or (tensors[0].device if tensors else "cpu"))
        if device.type != "cuda" or func._schema.name.removeprefix("aten::") not in DRAWS:
            return func(*args, **kwargs)
        of_the_gpu = {"device": torch.device("cpu"), "generator": None, "pin_memory": None}
        here = {name: of_the_gpu.get(name, value) for name, value in kwargs.items()}
        drawn = func(*tree_map(lambda value: value.cpu() if isinstance(value, torch.Tensor) else value, args), **here)
        if func._schema.is_mutable:
            return args[0].copy_(drawn)
        return drawn.to(device)
