"""Names of tensors in original (CompVis, Stability) checkpoints and in diffusers and transformers: tables for both directions.

A table maps diffusers name beginnings to original ones and holds for every block of a model with the given levels. A name
is renamed by the longest beginning that the table knows; what is left of the name stays. Pure text, no torch.

diffusers counts U-Net blocks by level and kind (`down_blocks.1.attentions.0`), the original numbers them through
(`input_blocks.4.1`), and a transformer stands in the same block as the resnet before it.
"""

from collections.abc import Sequence

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
CLIP_PREFIX = "cond_stage_model.transformer."
OPENCLIP_PREFIX = "cond_stage_model.model."

Table = dict[str, str]

RESNET_PARTS = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip

UNET_ENDS = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip

VAE_ATTENTION_PARTS = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}

# Names of a VAE's attention in diffusers before 0.17.
OLD_VAE_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}

OPENCLIP_LAYER_PARTS = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip

OPENCLIP_ENDS = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "text_projection.weight": "text_projection",
}

OPENCLIP_PROJECTIONS = ("q_proj", "k_proj", "v_proj")  # in the order in which in_proj_weight and in_proj_bias stack them


def renamed(name: str, table: Table, separator: str = ".") -> str | None:
    """The name with its longest known beginning replaced, or None if the table knows none of its beginnings.

    Beginnings end where `separator` stands, so `down_blocks.1` is none of `down_blocks.10`. The table must be written with
    the same separator.
    """
    end = len(name)
    while end > 0:
        if name[:end] in table:
            return table[name[:end]] + name[end:]
        end = name.rfind(separator, 0, end)
    return None


def inverse(table: Table) -> Table:
    """The table for the other direction. Raises ValueError if two names share one target, as it could not be undone."""
    turned = {original: diffusers for diffusers, original in table.items()}
    if len(turned) != len(table):
        raise ValueError("two entries of a key table have the same target")
    return turned


def unet_table(attention_levels: Sequence[bool], resnets: int = 2) -> Table:
    """diffusers -> original names of a U-Net with one entry of `attention_levels` per level: has it transformers?

    SD1 and SD2: (True, True, True, False); SDXL: (False, True, True). resnets: per level on the way down; one more on the
    way up.
    """
    levels = len(attention_levels)
    table = dict(UNET_ENDS)
    for j in range(2):
        _add_resnet(table, f"mid_block.resnets.{j}", f"middle_block.{2 * j}")
    table["mid_block.attentions.0"] = "middle_block.1"
    for level, has_attention in enumerate(attention_levels):
        first = (resnets + 1) * level
        for j in range(resnets):
            _add_resnet(table, f"down_blocks.{level}.resnets.{j}", f"input_blocks.{first + j + 1}.0")
            if has_attention:
                table[f"down_blocks.{level}.attentions.{j}"] = f"input_blocks.{first + j + 1}.1"
        if level + 1 < levels:
            table[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{first + resnets + 1}.0.op"
    for level, has_attention in enumerate(reversed(attention_levels)):
        first = (resnets + 1) * level
        for j in range(resnets + 1):
            _add_resnet(table, f"up_blocks.{level}.resnets.{j}", f"output_blocks.{first + j}.0")
            if has_attention:
                table[f"up_blocks.{level}.attentions.{j}"] = f"output_blocks.{first + j}.1"
        if level + 1 < levels:
            table[f"up_blocks.{level}.upsamplers.0"] = f"output_blocks.{first + resnets}.{2 if has_attention else 1}"
    return table


def _add_resnet(table: Table, diffusers: str, original: str) -> None:
    table[diffusers] = original
    for part, original_part in RESNET_PARTS.items():
        table[f"{diffusers}.{part}"] = f"{original}.{original_part}"


def vae_table(levels: int = 4, resnets: int = 2) -> Table:
    """diffusers -> original names of an AutoencoderKL. The original counts the decoder's levels from the image's side."""
    table = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for side in ("encoder", "decoder"):
        table |= {f"{side}.conv_in": f"{side}.conv_in", f"{side}.conv_out": f"{side}.conv_out", f"{side}.conv_norm_out": f"{side}.norm_out"}
        for j in range(2):
            table[f"{side}.mid_block.resnets.{j}"] = f"{side}.mid.block_{j + 1}"
        for part, original_part in VAE_ATTENTION_PARTS.items():
            table[f"{side}.mid_block.attentions.0.{part}"] = f"{side}.mid.attn_1.{original_part}"
    for level in range(levels):
        down, up = f"encoder.down.{level}", f"decoder.up.{levels - 1 - level}"
        for j in range(resnets):
            _add_vae_resnet(table, f"encoder.down_blocks.{level}.resnets.{j}", f"{down}.block.{j}")
        for j in range(resnets + 1):
            _add_vae_resnet(table, f"decoder.up_blocks.{level}.resnets.{j}", f"{up}.block.{j}")
        if level + 1 < levels:
            table[f"encoder.down_blocks.{level}.downsamplers.0"] = f"{down}.downsample"
            table[f"decoder.up_blocks.{level}.upsamplers.0"] = f"{up}.upsample"
    return table


def _add_vae_resnet(table: Table, diffusers: str, original: str) -> None:
    table[diffusers] = original
    table[f"{diffusers}.conv_shortcut"] = f"{original}.nin_shortcut"


def openclip_table(layers: int) -> Table:
    """transformers -> OpenCLIP names of a text encoder, without the three projections that OpenCLIP stacks into `attn.in_proj`."""
    table = dict(OPENCLIP_ENDS)
    for layer in range(layers):
        for part, original_part in OPENCLIP_LAYER_PARTS.items():
            table[f"text_model.encoder.layers.{layer}.{part}"] = f"transformer.resblocks.{layer}.{original_part}"
    return table


def stacked_projection(name: str) -> tuple[str, int] | None:
    """The OpenCLIP tensor that holds a query, key or value projection, and which third of it; None for any other name.

    `text_model.encoder.layers.3.self_attn.k_proj.bias` -> (`transformer.resblocks.3.attn.in_proj_bias`, 1)
    """
    parts = name.split(".")
    if len(parts) != 7 or parts[4] != "self_attn" or parts[5] not in OPENCLIP_PROJECTIONS:
        return None
    return f"transformer.resblocks.{parts[3]}.attn.in_proj_{parts[6]}", OPENCLIP_PROJECTIONS.index(parts[5])
