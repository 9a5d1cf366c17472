"""Names of tensors in adapter files: kohya's own, those of diffusers/PEFT and ComfyUI, and the way between them.

Inside, every key is kohya's: a module such as `lora_unet_input_blocks_4_1_proj_in` and a part such as `lora_down.weight`.
SDXL modules carry original (sgm) names, SD1 and SD2 modules those of diffusers. Pure text, no torch.
"""

import re
from collections.abc import Iterable

from library.models.ldm_keys import inverse, renamed, unet_table
from library.models.sdxl_keys import adapter_name_to_diffusers, adapter_name_to_original

SD_TO_ORIGINAL = unet_table(attention_levels=(True, True, True, False))
_SD_UNDERSCORED = {key.replace(".", "_"): value.replace(".", "_") for key, value in inverse(SD_TO_ORIGINAL).items()}

UNET, OFT_UNET, TE, TE1, TE2 = "lora_unet_", "oft_unet_", "lora_te_", "lora_te1_", "lora_te2_"
KOHYA_PREFIXES = (UNET, OFT_UNET, TE, TE1, TE2)
LEVEL = "text_model_"

# What stands before a layer's path in files of other programs; the longest that fits counts. TE1 is TE in SD1 and SD2 files.
FOREIGN_PREFIXES = {
    "unet.": UNET, "diffusion_model.": UNET, "model.diffusion_model.": UNET, "lycoris_": UNET,
    "down_blocks.": UNET, "mid_block.": UNET, "up_blocks.": UNET,
    "text_encoder.": TE1, "text_encoder_2.": TE2,
    "text_encoders.clip_l.transformer.": TE1, "text_encoders.clip_g.transformer.": TE2,
    "text_encoders.clip_h.transformer.": TE1, "clip_l.transformer.": TE1, "clip_g.transformer.": TE2,
}  # fmt: skip
PATH_PREFIXES = ("down_blocks.", "mid_block.", "up_blocks.")  # of the above, those that are part of the path itself

LORA_PARTS = {"A": "lora_down.weight", "B": "lora_up.weight", "down": "lora_down.weight", "up": "lora_up.weight", "mid": "lora_mid.weight"}
_LORA = re.compile(r"(.+?)(?:\.lora_|_lora\.|\.lora\.|\.lora_linear_layer\.)(A|B|down|up|mid)(?:\.(?!weight$)[\w-]+)?\.weight")
_PLAIN = re.compile(r"(.+)\.(down|up)\.weight")
_MAGNITUDE = re.compile(r"(.+)\.lora_magnitude_vector(?:\.(?!weight$)[\w-]+)?(?:\.weight)?")
_OTHER = re.compile(
    r"(.+)\.(alpha|dora_scale|hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t[12])|oft_(?:blocks|diag)|diff(?:_b)?|set_weight"
    r"|[wb]_norm|scalar|scale|rescale|on_input|(?:a1|a2|b1|b2|bm)\.weight)"
)

WORDS = (
    "down_blocks", "up_blocks", "mid_block", "input_blocks", "middle_block", "output_blocks", "attentions", "resnets",
    "downsamplers", "upsamplers", "transformer_blocks", "attn1", "attn2", "ff", "net", "proj", "proj_in", "proj_out", "to_q",
    "to_k", "to_v", "to_out", "norm", "norm1", "norm2", "norm3", "conv", "conv1", "conv2", "conv_shortcut", "time_emb_proj",
    "conv_in", "conv_out", "conv_norm_out", "time_embedding", "add_embedding", "linear_1", "linear_2", "in_layers", "out_layers",
    "emb_layers", "skip_connection", "op", "time_embed", "label_emb", "out", "text_model", "encoder", "layers", "self_attn",
    "q_proj", "k_proj", "v_proj", "out_proj", "mlp", "fc1", "fc2", "layer_norm1", "layer_norm2", "embeddings", "token_embedding",
    "position_embedding", "final_layer_norm", "text_projection",
)  # fmt: skip
_WORD = re.compile(rf"({'|'.join(sorted(WORDS, key=len, reverse=True))}|\d+)(?:_|$)")
_SPATIAL = re.compile(
    r"_(conv1|conv2|conv_in|conv_out|in_layers_2|out_layers_3|input_blocks_0_0|out_2|\d_op|(down|up)samplers_0_conv|output_blocks_\d+_[12]_conv)$"
)
_POINTWISE = re.compile(r"_(conv_shortcut|skip_connection)$|_(down|up)_blocks_.*_proj_(in|out)$|_mid_block_.*_proj_(in|out)$")


def split_key(key: str) -> tuple[str, str] | None:
    """(layer as the file names it, part as kohya names it); None for what is no tensor of an adapter.

    `unet.mid_block.attentions.0.proj_in.lora_A.weight` -> (`unet.mid_block.attentions.0.proj_in`, `lora_down.weight`)
    """
    key = key.removeprefix("base_model.model.")
    if found := _LORA.fullmatch(key):
        return found[1], LORA_PARTS[found[2]]
    if found := _MAGNITUDE.fullmatch(key):
        return found[1], "dora_scale"
    if found := _OTHER.fullmatch(key):
        return found[1], found[2]
    if found := _PLAIN.fullmatch(key):
        return found[1], LORA_PARTS[found[2]]
    layer, _, part = key.rpartition(".")
    return (layer, part) if part == "weight" and layer.startswith((*KOHYA_PREFIXES, "lycoris_")) else None


def looks_like_sdxl(layers: Iterable[str]) -> bool:
    """Whether layer names, in any naming, belong to SDXL: two text encoders, deep transformers, or kohya's original names."""
    mark = re.compile(r"lora_te2_|text_encoder_2\.|clip_g\.|transformer_blocks[._][1-9]|^(lora|oft)_unet_(input|output|middle)_block")
    layers = list(layers)
    sd = re.compile(r"(down|up)_blocks[._]3[._]|(input|output)_blocks[._](9|1\d)[._]")
    return any(mark.search(layer) for layer in layers) and not any(sd.search(layer) for layer in layers)


def kohya_module(layer: str, *, sdxl: bool) -> str | None:
    """The kohya name of a layer named as any program names it; None if no part of a model can be told.

    `unet.down_blocks.1.attentions.0.proj_in` -> `lora_unet_input_blocks_4_1_proj_in` (SDXL)
    """
    prefix = next((prefix for prefix in KOHYA_PREFIXES if layer.startswith(prefix)), None)
    rest = layer.removeprefix(prefix or "")
    if prefix is None:
        found = max((known for known in FOREIGN_PREFIXES if layer.startswith(known)), key=len, default=None)
        if found is None:
            return None
        prefix = FOREIGN_PREFIXES[found]
        rest = layer if found in PATH_PREFIXES else layer.removeprefix(found)
        rest = rest.replace(".processor.", ".").replace(".", "_")
        rest = re.sub(r"_to_out$", "_to_out_0", rest)  # attention processors of early diffusers
    if prefix in (UNET, OFT_UNET):
        return prefix + (adapter_name_to_original(rest) if sdxl else renamed(rest, _SD_UNDERSCORED, "_") or rest)
    if prefix in (TE, TE1):
        prefix = TE1 if sdxl else TE
    return prefix + (LEVEL + rest if rest.startswith(("encoder_", "embeddings_", "final_layer_norm")) else rest)


def dotted(path: str) -> str | None:
    """A layer's path with the dots that kohya's names lack; None if a word is not known.

    `down_blocks_0_attentions_0_proj_in` -> `down_blocks.0.attentions.0.proj_in`
    """
    words, place = [], 0
    while place < len(path):
        found = _WORD.match(path, place)
        if found is None:
            return None
        words.append(found[1])
        place = found.end()
    return ".".join(words)


def diffusers_layer(module: str) -> str | None:
    """The layer as diffusers and PEFT name it, for a module in kohya's names: `unet.down_blocks.1.attentions.0.proj_in`."""
    prefix, rest = _split_prefix(module)
    if prefix in (UNET, OFT_UNET):
        path = dotted(adapter_name_to_diffusers(rest))
        return path and f"unet.{path}"
    path = dotted(rest)
    return path and {TE: "text_encoder.", TE1: "text_encoder.", TE2: "text_encoder_2."}[prefix] + path


def comfyui_layer(module: str) -> str | None:
    """The layer as ComfyUI's models name it: `diffusion_model.input_blocks.4.1.proj_in`, `text_encoders.clip_l.transformer...`."""
    prefix, rest = _split_prefix(module)
    path = dotted(rest)
    if path is None:
        return None
    if prefix in (UNET, OFT_UNET):
        return "diffusion_model." + (renamed(path, SD_TO_ORIGINAL) or path)
    return f"text_encoders.{'clip_g' if prefix == TE2 else 'clip_l'}.transformer.{path}"


def _split_prefix(module: str) -> tuple[str, str]:
    prefix = next(prefix for prefix in KOHYA_PREFIXES if module.startswith(prefix))
    return prefix, module.removeprefix(prefix)


def section(module: str) -> str:
    """`text_encoder` or `unet`: the part of the model that a module in kohya's names belongs to."""
    return "unet" if module.startswith((UNET, OFT_UNET)) else "text_encoder"


def layer_shape(module: str, out: int, columns: int) -> tuple[int, ...]:
    """The shape of a layer's weight, told from its name: adapters that keep flat matrices leave the kernel out.

    columns: inputs of one output, kernel included.
    """
    if _SPATIAL.search(module):
        return out, columns // 9, 3, 3
    return (out, columns, 1, 1) if _POINTWISE.search(module) else (out, columns)
