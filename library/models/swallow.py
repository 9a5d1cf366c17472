"""The random numbers a model's construction costs when its layers are initialised before the weights are loaded.

We never initialise what a file overwrites, so our loading draws nothing. To start from the same random state as a program
that does, count the draws it needs from the shapes, and skip as many. Amounts are 32-bit draws of torch's CPU generator.
"""

import torch
from torch import nn

CHUNK = 2**24  # elements per fill: 64 MB of float32


def layer_draws(module: nn.Module) -> int:
    """Draws of a U-Net or VAE: one per weight and bias element of its Linear and Conv2d layers; norms draw none."""
    layers = (layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d))
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters(recurse=False))


def text_encoder_draws(text_encoder: nn.Module) -> int:
    """Draws of a transformers CLIP text encoder, which initialises Linear weights and embeddings twice, Linear biases once."""
    draws = 0
    for layer in text_encoder.modules():
        if isinstance(layer, nn.Linear | nn.Embedding):
            draws += 2 * layer.weight.numel()
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            draws += layer.bias.numel()
    return draws


def swallow(draws: int) -> None:
    """Advances torch's global CPU generator by `draws` 32-bit draws; 1e8 take about a second."""
    if draws <= 0:
        return
    scratch = torch.empty(min(draws, CHUNK), dtype=torch.float32, device="cpu")
    for start in range(0, draws, CHUNK):
        scratch[: min(CHUNK, draws - start)].uniform_()
