"""LoRA of layers that read the same input: q, k and v of self-attention, k and v of cross-attention, computed together.

Base weights and low-precision copies of such layers lie in one tensor each, and the layers' own are views of it: names, files and
the numbers drawn for dropout stay as they are. Whatever is not as it was when the group was made sends it back to one layer at a time.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from library.kernels.attention import SharedInputProcessor
from library.kernels.shared_input import stacked_linear_with_low_rank
from networks.layers import LoRALinear, LoRAModule, cast_for_autocast


class SharedInput:
    """n LoRA layers with one input. Called with it, the outputs of all; None if they must be computed one by one."""

    def __init__(self, modules: Sequence[LoRALinear], dtype: torch.dtype):
        """modules: of equal shapes and rank, without module dropout, see `fit_together`. dtype: of the computation and the base weights."""
        self.modules = list(modules)
        self.weight = stacked_in_place([module.org_module for module in modules])
        self.down = torch.cat([module.lora_down.weight.detach() for module in modules]).to(dtype)
        self.up = torch.stack([module.lora_up.weight.detach() for module in modules]).to(dtype)
        downs, ups = self.down.chunk(len(modules)), self.up.unbind()
        copies = zip(modules, downs, ups, strict=True)
        self.pairs = [(leaf(down, module.lora_down), leaf(up, module.lora_up)) for module, down, up in copies]
        self._leaves = [down for down, _ in self.pairs] + [up for _, up in self.pairs]
        self._storage = self.weight.untyped_storage()._cdata

    def __call__(self, x: Tensor) -> tuple[Tensor, ...] | None:
        x = cast_for_autocast(x)
        first = self.modules[0]
        scale = first.multiplier * first.scale
        together = all(self._is_ready(module, pair, scale) for module, pair in zip(self.modules, self.pairs, strict=True))
        if not together or x.dtype != self.down.dtype:
            return None
        masks = [module._drop_mask((*x.shape[:-1], module.rank), -1, x) for module in self.modules]
        mask = None if masks[0] is None else torch.cat(masks, dim=-1)
        return stacked_linear_with_low_rank(x, self.weight, self.down, self.up, self._leaves, scale, mask)

    def _is_ready(self, module: LoRALinear, pair: tuple[Tensor, Tensor], scale: float) -> bool:
        """Whether the module and its layer are as they were, so that the stacked tensors speak for them."""
        layer = module.org_module
        return (
            module.enabled
            and module.shadow is pair
            and module.training == self.modules[0].training
            and module.multiplier * module.scale == scale
            and getattr(layer.forward, "__self__", None) is module
            and module.base_is_plain()
            and layer.weight.untyped_storage()._cdata == self._storage
        )


def group(unet: nn.Module, modules: Iterable[LoRAModule], dtype: torch.dtype) -> list[SharedInput]:
    """Makes the groups there are among `modules` and hands each to its attention; attentions without one compute layer by layer."""
    by_layer = {id(module.org_module): module for module in modules}
    groups = []
    for processor, layers in shared_layers(unet):
        members = [by_layer.get(id(layer)) for layer in layers]
        processor.shared = SharedInput(members, dtype) if fit_together(members, dtype) else None
        if processor.shared:
            groups.append(processor.shared)
    return groups


def shared_layers(unet: nn.Module) -> Iterator[tuple[SharedInputProcessor, list[nn.Module]]]:
    """The attentions that can compute layers together, with these layers."""
    for attention in unet.modules():
        processor = getattr(attention, "processor", None)
        if isinstance(processor, SharedInputProcessor):
            layers = [attention.to_k, attention.to_v]
            yield processor, layers if attention.is_cross_attention else [attention.to_q, *layers]


def fit_together(modules: Sequence[LoRAModule | None], dtype: torch.dtype) -> bool:
    """Whether all layers have a plain LoRA of one kind, shape and dropout, on a base weight of `dtype` and without a bias."""
    first = modules[0]
    return all(
        type(module) is LoRALinear
        and module.base_is_plain()
        and not module.dropout.module
        and module.dropout == first.dropout
        and module.rank == first.rank
        and module.org_module.bias is None
        and module.org_module.weight.dtype == dtype
        and not hasattr(module.org_module.weight, "placements")  # spread over several GPUs: stacked, each would hold all of it
        and module.org_module.weight.shape == first.org_module.weight.shape
        for module in modules
    )


def stacked_in_place(layers: Sequence[nn.Linear]) -> Tensor:
    """The layers' weights in one tensor (n * out, in); the weights themselves become views of it."""
    stacked = torch.cat([layer.weight.detach() for layer in layers])
    for layer, part in zip(layers, stacked.chunk(len(layers)), strict=True):
        layer.weight.data = part
    return stacked


def leaf(view: Tensor, layer: nn.Module) -> Tensor:
    """A tensor autograd sees as its own, with the memory of `view`; trained if the layer's weight is."""
    return view.detach().requires_grad_(layer.weight.requires_grad)
