"""The tiny models of tests/tiny_models.py as single files in the original layout, and folders that equal them.

Heads of attention cannot be seen in a single file, so readers assume 64 channels each (8 heads in SD1's U-Net). The tiny
models have smaller heads; `comparable_folder` writes the folder with the heads a reader of the single file assumes.
The names are made here by other means than in library.models, so that the two check each other.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.tiny_models import DEFAULT_SEED, write_folder

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
ENDS = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0", "conv_out": "out.2", "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip


def original_unet_key(key: str, kind: str) -> str:
    """diffusers -> original name of a U-Net tensor; kind: sd1, sd2 or sdxl."""
    for ours, theirs in ENDS.items():
        if key.startswith(ours + "."):
            return theirs + key[len(ours) :]
    parts = key.split(".")
    if parts[0] == "mid_block":
        is_resnet, rest = parts[1] == "resnets", parts[3:]
        place = f"middle_block.{2 * int(parts[2])}" if is_resnet else "middle_block.1"
    else:
        level, number, is_resnet = int(parts[1]), int(parts[3]), parts[2] == "resnets"
        if parts[2] == "downsamplers":
            return f"input_blocks.{3 * level + 3}.0.op.{parts[-1]}"
        if parts[2] == "upsamplers":
            return f"output_blocks.{3 * level + 2}.{1 if level == 0 and kind != 'sdxl' else 2}.conv.{parts[-1]}"
        down = parts[0] == "down_blocks"
        place = f"{'input' if down else 'output'}_blocks.{3 * level + number + down}.{0 if is_resnet else 1}"
        rest = parts[4:]
    return ".".join([place, RESNET[rest[0]], *rest[1:]] if is_resnet else [place, *rest])


def original_vae_key(key: str, levels: int = 4) -> str:
    """diffusers -> original name of a VAE tensor."""
    parts = key.split(".")
    if parts[0] in ("quant_conv", "post_quant_conv") or parts[1] in ("conv_in", "conv_out"):
        return key
    side = parts[0]
    if parts[1] == "conv_norm_out":
        return f"{side}.norm_out.{parts[2]}"
    if parts[1] == "mid_block" and parts[2] == "resnets":
        return f"{side}.mid.block_{int(parts[3]) + 1}." + ".".join(parts[4:])
    if parts[1] == "mid_block":
        names = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}
        return f"{side}.mid.attn_1.{names[parts[4]]}.{parts[-1]}"
    down = parts[1] == "down_blocks"
    stem = f"{side}.down.{parts[2]}" if down else f"{side}.up.{levels - 1 - int(parts[2])}"
    if parts[3] == "resnets":
        return f"{stem}.block.{parts[4]}.{'.'.join(parts[5:]).replace('conv_shortcut', 'nin_shortcut')}"
    return f"{stem}.{'down' if down else 'up'}sample.conv.{parts[-1]}"


def openclip_tensors(tensors: dict, extra_layer: bool) -> dict:
    """A transformers text encoder in OpenCLIP's layout; extra_layer: with one more layer, which SD2 does not use."""
    layers = 1 + max(int(key.split(".")[3]) for key in tensors if ".layers." in key)
    text = {
        "token_embedding.weight": tensors["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": tensors["text_model.embeddings.position_embedding.weight"],
        "ln_final.weight": tensors["text_model.final_layer_norm.weight"],
        "ln_final.bias": tensors["text_model.final_layer_norm.bias"],
        "logit_scale": np.array(4.6, np.float32),
    }
    if "text_projection.weight" in tensors:
        text["text_projection"] = np.ascontiguousarray(tensors["text_projection.weight"].T)
    names = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    }
    for layer in range(layers + extra_layer):
        ours = f"text_model.encoder.layers.{min(layer, layers - 1)}"
        theirs = f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            stack = [tensors[f"{ours}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            text[f"{theirs}.attn.in_proj_{kind}"] = np.concatenate(stack) + (layer == layers)
            for original, name in names.items():
                text[f"{theirs}.{original}.{kind}"] = tensors[f"{ours}.{name}.{kind}"]
    return text


def comparable_folder(kind: str, folder: Path, seed: int = DEFAULT_SEED) -> Path:
    """Writes the diffusers folder of a tiny model with as many heads as a reader of its single file assumes."""
    write_folder(kind, folder, seed, None)
    changes = {"text_encoder": {"num_attention_heads": 1}}
    if kind == "sd2":
        changes["unet"] = {"attention_head_dim": [1, 1, 1, 1]}
    if kind == "sdxl":
        changes["text_encoder_2"] = {"num_attention_heads": 1}
    for part, change in changes.items():
        path = folder / part / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return folder


def single_file_tensors(kind: str, folder: Path) -> dict:
    """The tensors of a model folder as its original checkpoint holds them."""
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    text = load_file(folder / "text_encoder" / "model.safetensors")
    tensors = {"model.diffusion_model." + original_unet_key(key, kind): value for key, value in unet.items()}
    for key, value in vae.items():
        as_convolution = ".attentions." in key and value.ndim == 2
        tensors["first_stage_model." + original_vae_key(key)] = value[:, :, None, None] if as_convolution else value
    tensors["alphas_cumprod"] = np.zeros(1000, np.float32)
    if kind == "sd2":
        return tensors | {"cond_stage_model.model." + key: value for key, value in openclip_tensors(text, extra_layer=True).items()}
    prefix = "cond_stage_model.transformer." if kind == "sd1" else "conditioner.embedders.0.transformer."
    tensors |= {prefix + key: value for key, value in text.items()}
    tensors[prefix + "text_model.embeddings.position_ids"] = np.arange(77)[None]
    if kind == "sdxl":
        second = openclip_tensors(load_file(folder / "text_encoder_2" / "model.safetensors"), extra_layer=False)
        tensors |= {"conditioner.embedders.1.model." + key: value for key, value in second.items()}
    return tensors


def write_single_file(kind: str, folder: Path, out: Path) -> Path:
    """Writes the model of a folder as one .safetensors file."""
    tensors = {key: np.ascontiguousarray(value) for key, value in single_file_tensors(kind, folder).items()}
    save_file(tensors, out, metadata={"format": "pt"})
    return out
