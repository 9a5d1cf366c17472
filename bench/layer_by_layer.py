"""A LoRA without any of our kernels, for comparison: each layer computes base, down, up, two products with a number, and a sum.

That is what sd-scripts asks of torch, in operations and in what is kept for the backward pass, so bench/step.py and bench/count.py can
compare with it where no checkout of sd-scripts is at hand. It trains, but can neither save nor load.
"""

from typing import Any

from torch import Tensor, nn

from networks import lora


class LayerByLayer(nn.Module):
    """One layer's adapter; takes the place of the layer's `forward`."""

    def __init__(self, layer: nn.Module, rank: int, alpha: float):
        super().__init__()
        if isinstance(layer, nn.Conv2d):
            self.down = nn.Conv2d(layer.in_channels, rank, layer.kernel_size, layer.stride, layer.padding, bias=False)
            self.up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        else:
            self.down = nn.Linear(layer.in_features, rank, bias=False)
            self.up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)
        self.multiplier, self.scale = 1.0, alpha / rank
        self._base_forward, layer.forward = layer.forward, self.forward

    def forward(self, x: Tensor) -> Tensor:
        return self._base_forward(x) + self.up(self.down(x)) * self.multiplier * self.scale


def create(rank: int, text_encoder: Any, unet: nn.Module, *, unet_only: bool) -> nn.ModuleList:
    """The adapters of the layers that `networks.lora` would train, in place."""
    network = lora.create_network(1.0, rank, rank / 2, None, text_encoder, unet)
    chosen = network.unet_loras if unet_only else [*network.text_encoder_loras, *network.unet_loras]
    return nn.ModuleList(LayerByLayer(adapter.org_module, rank, rank / 2) for adapter in chosen)
