"""Every kind of adapter around one small layer, with random weights in every factor."""

import torch
from torch import nn

from networks.dylora import DyLoRAModule
from networks.layers import AdapterModule, Dropout, lora_module
from networks.loha import LoHaModule
from networks.lokr import LoKrModule
from networks.lora_fa import lora_fa_module
from networks.oft import OFTModule
from networks.targets import Target

LAYERS = {
    "linear": (lambda: nn.Linear(12, 8), (2, 5, 12)),
    "conv1x1": (lambda: nn.Conv2d(12, 8, 1), (2, 12, 5, 6)),
    "conv3x3": (lambda: nn.Conv2d(12, 8, 3, stride=2, padding=1), (2, 12, 5, 6)),
}


def lokr(target, *rest, **options):
    return LoKrModule(target, *rest, split=(2, 3), **options)


MAKERS = {  # name -> (module, rank, options, DoRA axis)
    "lora": (lora_module, 3, {}, None),
    "lora_fa": (lora_fa_module, 3, {}, None),
    "dylora": (DyLoRAModule, 3, {}, None),
    "oft": (OFTModule, 2, {}, None),
    "loha as one low-rank product": (LoHaModule, 2, {}, None),
    "loha built": (LoHaModule, 4, {}, None),
    "loha tucker": (LoHaModule, 2, {"use_tucker": True}, None),
    "lokr whole": (lokr, 9, {}, None),
    "lokr low rank": (lokr, 1, {}, None),
    "lokr tucker": (lokr, 1, {"use_tucker": True}, None),
    "dora by input": (lora_module, 3, {}, "input"),
    "dora by output": (lora_module, 3, {}, "output"),
    "loha dora by input": (LoHaModule, 2, {}, "input"),
    "loha dora by output": (LoHaModule, 4, {}, "output"),
    "loha tucker dora by input": (LoHaModule, 2, {"use_tucker": True}, "input"),
    "lokr dora by input": (lokr, 1, {}, "input"),
    "lokr dora by output": (lokr, 9, {}, "output"),
}  # fmt: skip


def adapter(kind: str, layer: nn.Module, *, stirred: bool = True, multiplier: float = 1.0, dropout: Dropout | None = None) -> AdapterModule:
    """The module of a kind, not put in place yet. stirred: zero factors and magnitudes get random values."""
    make, rank, options, axis = MAKERS[kind]
    module = make(Target("lora_unet_x", "x", layer, "lora_unet_x"), rank, 2.0, multiplier, dropout or Dropout(), **options)
    if axis:
        module.decompose(axis)
    if stirred:
        for name, parameter in module.named_parameters():
            if name == "dora_scale":
                parameter.data *= 1 + 0.2 * torch.rand_like(parameter)
            elif not parameter.any():
                nn.init.normal_(parameter, std=0.3)
    return module


def layer_and_input(place: str) -> tuple[nn.Module, torch.Tensor]:
    """A frozen layer and what it may be given, the same at each call."""
    torch.manual_seed(0)
    make, shape = LAYERS[place]
    return make().requires_grad_(False), torch.randn(shape)
