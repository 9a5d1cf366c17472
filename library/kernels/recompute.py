"""Selective checkpointing: outputs of norms and gates are not kept for the backward pass but computed again from what is kept anyway.

Autograd hands each tensor it is about to keep to `pack`. An output that was noted is replaced by its recipe: the function and its
inputs, which the norm's own backward keeps as well. Matrix products, convolutions and attention are never computed again.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


class Recipe:
    """How to get one output again. Computed once for all who kept it, and let go after the last of them."""

    def __init__(self, compute: Callable[..., Tensor], inputs: tuple):
        self._compute = compute
        self._inputs = tuple(value.detach() if isinstance(value, Tensor) else value for value in inputs)
        device = next(value.device.type for value in inputs if isinstance(value, Tensor))
        self._autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        self._waiting = 0
        self._output: Tensor | None = None

    def promise(self) -> None:
        """One more will ask for the output."""
        self._waiting += 1

    def output(self) -> Tensor:
        """The output as it was, to the last bit."""
        if self._output is None:
            device, dtype, enabled = self._autocast
            with torch.no_grad(), torch.autocast(device, dtype, enabled=enabled):
                self._output = self._compute(*self._inputs)
        output = self._output
        self._waiting -= 1
        if self._waiting <= 0:
            self._output = None
        return output


class CheapOutputs:
    """The outputs of one forward pass that are cheap to compute again."""

    def __init__(self) -> None:
        self._recipes: dict[int, Recipe] = {}
        self._active = False

    def note(self, output: Tensor, compute: Callable[..., Tensor], *inputs: Any) -> Tensor:
        """Remembers that output = compute(*inputs), as long as the output lives; returns it. It must not be changed in place."""
        if self._active and output.requires_grad:
            key = output.untyped_storage()._cdata
            self._recipes[key] = Recipe(compute, inputs)
            weakref.finalize(output, self._recipes.pop, key, None)
        return output

    def keeping_recipes(self, module: nn.Module) -> None:
        """Lets what `module` computes with gradients keep recipes in place of the outputs noted."""
        forward = module.forward

        @functools.wraps(forward)
        def with_recipes(*inputs, **named):
            if not torch.is_grad_enabled() or self._active:
                return forward(*inputs, **named)
            self._active = True
            try:
                with saved_tensors_hooks(self._pack, unpack):
                    return forward(*inputs, **named)
            finally:
                self._active = False
                self._recipes.clear()

        module.forward = with_recipes

    def _pack(self, tensor: Tensor) -> Any:
        recipe = self._recipes.get(tensor.untyped_storage()._cdata)
        if recipe is None:
            return tensor
        recipe.promise()
        return recipe, tensor.shape, tensor.stride(), tensor.storage_offset()


def unpack(kept: Any) -> Tensor:
    """The tensor that was packed, as it is or computed again."""
    if isinstance(kept, Tensor):
        return kept
    recipe, *view = kept
    return recipe.output().as_strided(*view)
