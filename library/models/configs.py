"""Model configurations read off the shapes of an original checkpoint's tensors, so that any width loads.

All functions take shapes by original name, without the prefix of the part in the file, and return keyword arguments of the
diffusers or transformers class. Heads cannot be seen in shapes: they follow from the head size the family was made with.
"""

from collections.abc import Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]

CLIP_HEAD_SIZE = 64
SD2_TEXT_LAYERS = 23


def unet_config(shapes: Shapes, *, heads: int | None, head_size: int = 64, linear_projection: bool, sample_size: int) -> dict[str, Any]:
    """UNet2DConditionModel of SD1, SD2 or SDXL. heads: attention heads at every width; None: one per `head_size` channels."""
    levels = _unet_levels(shapes)
    channels = [level["channels"] for level in levels]
    depths = [level["depth"] for level in levels]
    keys = next(name for name in shapes if name.endswith("transformer_blocks.0.attn2.to_k.weight"))
    config = {
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "sample_size": sample_size,
        "block_out_channels": channels,
        "layers_per_block": levels[0]["resnets"],
        "cross_attention_dim": shapes[keys][1],
        "attention_head_dim": [heads or max(1, width // head_size) for width in channels],
        "transformer_layers_per_block": [max(1, depth) for depth in depths],
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "use_linear_projection": linear_projection,
    }
    if "label_emb.0.0.weight" in shapes:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": shapes["label_emb.0.0.weight"][1],
        }
    return config


def attention_levels(config: Mapping[str, Any]) -> list[bool]:
    """Per level of a U-Net configuration: does it have transformers?"""
    return [kind.startswith("CrossAttn") for kind in config["down_block_types"]]


def _unet_levels(shapes: Shapes) -> list[dict[str, int]]:
    """channels, number of resnets and depth of the transformers of each level, from the original's input blocks."""
    levels = [{"channels": 0, "resnets": 0, "depth": 0}]
    number = 1
    while True:
        block = f"input_blocks.{number}"
        if f"{block}.0.in_layers.2.weight" in shapes:
            levels[-1]["channels"] = shapes[f"{block}.0.in_layers.2.weight"][0]
            levels[-1]["resnets"] += 1
            levels[-1]["depth"] = _count(shapes, f"{block}.1.transformer_blocks.{{}}.norm1.weight")
        elif f"{block}.0.op.weight" in shapes:
            levels.append({"channels": 0, "resnets": 0, "depth": 0})
        else:
            return levels
        number += 1


def vae_config(shapes: Shapes, *, scaling_factor: float, sample_size: int) -> dict[str, Any]:
    """AutoencoderKL."""
    levels = _count(shapes, "encoder.down.{}.block.0.conv1.weight")
    return {
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)],
        "layers_per_block": _count(shapes, "encoder.down.0.block.{}.conv1.weight"),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": scaling_factor,
        "sample_size": sample_size,
    }


def clip_config(shapes: Shapes) -> dict[str, Any]:
    """CLIPTextConfig of a text encoder in transformers' layout (SD1, SDXL's first)."""
    return _text_config(
        shapes,
        embedding="text_model.embeddings.token_embedding.weight",
        positions="text_model.embeddings.position_embedding.weight",
        mlp="text_model.encoder.layers.{}.mlp.fc1.weight",
        activation="quick_gelu",
    )


def openclip_config(shapes: Shapes, *, keep_last_layer: bool) -> dict[str, Any]:
    """CLIPTextConfig of a text encoder in OpenCLIP's layout.

    SD2 was trained on the output of the last layer but one, so its last layer is left out (keep_last_layer false); files
    from which it has been removed already have 23.
    """
    config = _text_config(
        shapes,
        embedding="token_embedding.weight",
        positions="positional_embedding",
        mlp="transformer.resblocks.{}.mlp.c_fc.weight",
        activation="gelu",
    )
    if not keep_last_layer and config["num_hidden_layers"] != SD2_TEXT_LAYERS:
        config["num_hidden_layers"] -= 1
    return config


def _text_config(shapes: Shapes, *, embedding: str, positions: str, mlp: str, activation: str) -> dict[str, Any]:
    vocabulary, width = shapes[embedding]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "projection_dim": width,
        "intermediate_size": shapes[mlp.format(0)][0],
        "num_hidden_layers": _count(shapes, mlp),
        "num_attention_heads": max(1, width // CLIP_HEAD_SIZE),
        "max_position_embeddings": shapes[positions][0],
        "hidden_act": activation,
        "layer_norm_eps": 1e-5,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 1,
    }


def _count(shapes: Shapes, pattern: str) -> int:
    """How many of pattern.format(0), pattern.format(1), ... there are without a gap."""
    number = 0
    while pattern.format(number) in shapes:
        number += 1
    return number
