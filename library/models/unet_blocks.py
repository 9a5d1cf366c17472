"""The blocks a U-Net is made of: one transformer block or one residual block each, the units of compiling and of swapping."""

from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

BLOCK_KINDS = (BasicTransformerBlock, ResnetBlock2D)


def unet_blocks(unet: UNet2DConditionModel) -> list[nn.Module]:
    """In the order of the model's own modules."""
    return [module for module in unet.modules() if isinstance(module, BLOCK_KINDS)]


def largest_blocks(unet: UNet2DConditionModel, count: int) -> list[nn.Module]:
    """The `count` blocks with the most weights, larger ones first. Raises ValueError if there are not that many."""
    blocks = unet_blocks(unet)
    if not 0 < count <= len(blocks):
        raise ValueError(f"--blocks_to_swap {count}: this U-Net has {len(blocks)} blocks, give a number from 1 to {len(blocks)}")
    return sorted(blocks, key=lambda block: -sum(parameter.numel() for parameter in block.parameters()))[:count]
