"""A frozen U-Net of Stable Diffusion's kinds of layers, with random weights and some thousand numbers."""

import torch
from diffusers import UNet2DConditionModel


def small_unet(**settings) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=2,
        layers_per_block=1,
        **settings,
    ).requires_grad_(False)
