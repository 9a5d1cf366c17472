"""Tiny models of each family, random and built in memory, and the sizes of the real ones on the meta device."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
SD_BLOCKS = {"down_block_types": [CROSS] * 3 + [PLAIN], "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3}
SDXL_BLOCKS = {
    "down_block_types": [PLAIN, CROSS, CROSS], "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "use_linear_projection": True,
}  # fmt: skip
TINY_UNETS = {
    "sd1": SD_BLOCKS | {"block_out_channels": [32, 64, 64, 64], "cross_attention_dim": 32, "attention_head_dim": 8},
    "sdxl": SDXL_BLOCKS | {
        "block_out_channels": [32, 64, 128], "cross_attention_dim": 96, "attention_head_dim": [1, 1, 2],
        "transformer_layers_per_block": [1, 1, 2], "projection_class_embeddings_input_dim": 6 * 256 + 64,
    },
}  # fmt: skip
SMALLEST_UNET = {
    "block_out_channels": [32, 32], "layers_per_block": 1, "cross_attention_dim": 32, "attention_head_dim": 8,
    "down_block_types": [CROSS, PLAIN], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}  # fmt: skip
REAL_UNETS = {
    "sd1": SD_BLOCKS | {"block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": SD_BLOCKS | {
        "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
    },
    "sdxl": SDXL_BLOCKS | {
        "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10], "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
TINY_ENCODERS = {"sd1": [(32, 4)], "sdxl": [(32, 12), (64, 4)]}
REAL_ENCODERS = {"sd1": [(768, 12)], "sd2": [(1024, 23)], "sdxl": [(768, 12), (1280, 32)]}


def text_encoders(sizes):
    """One CLIP text model, or for several sizes (width, layers) a list as SDXL has it."""
    classes = [CLIPTextModel, CLIPTextModelWithProjection]
    models = []
    for make, (width, layers) in zip(classes, sizes):
        config = CLIPTextConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            projection_dim=width,
            vocab_size=99,
        )
        models.append(make(config).requires_grad_(False))
    return models if len(models) > 1 else models[0]


@pytest.fixture
def tiny_models():
    """kind -> (text encoder or list of them, U-Net)."""

    def make(kind):
        torch.manual_seed(0)
        return text_encoders(TINY_ENCODERS[kind]), UNet2DConditionModel(**TINY_UNETS[kind]).requires_grad_(False)

    return make


def smallest_models():
    """(text encoder, U-Net) of SD1's kind with one or two of everything an adapter can meet."""
    torch.manual_seed(0)
    return text_encoders([(32, 1)]), UNet2DConditionModel(**SMALLEST_UNET).requires_grad_(False)


@pytest.fixture
def real_models():
    """kind -> (text encoder or list of them, U-Net) of full size, without memory."""

    def make(kind):
        with torch.device("meta"):
            return text_encoders(REAL_ENCODERS[kind]), UNet2DConditionModel(**REAL_UNETS[kind])

    return make
