"""Deterministic random Stable Diffusion models for tests; nothing is downloaded.

Every number of every tensor follows from (seed, parameter name) alone, through the raw 64-bit output of NumPy's Philox
generator, so the same bits come out on any platform and with any torch version. Needs numpy and safetensors.

Value rule. u is uniform on [0, 1) with 24 random bits per element, from Philox with the 128-bit key
sha256("<seed>:<name>")[:16] (little endian): element i in C order is (raw[i] >> 40) / 2**24. z = (u - 0.5) * sqrt(12) has
mean 0 and variance 1. Then
    norm weights (group norm, layer norm)      1 + 0.1 z
    1-D biases                                 0.05 z
    token embeddings 0.3 z, position embeddings 0.1 z
    other weights                              z / sqrt(fan_in)
    the VAE's quant_conv                       mean rows x 4; log-variance rows x 0.3 with bias 0.05 z - 3
<name> is "<component>/<parameter>" with the names of diffusers and transformers ("unet/conv_in.weight").
"""

import hashlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

DEFAULT_SEED = 1234
LATENT_CHANNELS = 4


# --- values ---
def standard_values(seed, name, count):
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16]
    bits = np.random.Philox(key=int.from_bytes(digest, "little"))
    raw = bits.random_raw(count)
    return ((raw >> np.uint64(40)).astype(np.float64) / 2.0**24 - 0.5) * math.sqrt(12.0)


def is_norm(name):
    return "norm" in name.split("/")[1].rsplit(".", 1)[0].split(".")[-1]


def make_tensor(seed, name, shape, dtype):
    z = standard_values(seed, name, math.prod(shape)).reshape(shape)
    if name.startswith("vae/quant_conv."):
        half = shape[0] // 2
        if len(shape) == 1:
            z = 0.05 * z
            z[half:] -= 3.0
        else:
            z = z / math.sqrt(math.prod(shape[1:]))
            z[:half] *= 4.0
            z[half:] *= 0.3
    elif name.endswith("token_embedding.weight"):
        z = 0.3 * z
    elif name.endswith("position_embedding.weight"):
        z = 0.1 * z
    elif len(shape) == 1:
        z = 1.0 + 0.1 * z if is_norm(name) and name.endswith(".weight") else 0.05 * z
    else:
        z = z / math.sqrt(math.prod(shape[1:]))
    return z.astype(dtype)


# --- parameter shapes, with the diffusers / transformers names ---
class Shapes(dict):
    def affine(self, name, n):
        self[name + ".weight"] = (n,)
        self[name + ".bias"] = (n,)

    def linear(self, name, n_in, n_out, bias=True):
        self[name + ".weight"] = (n_out, n_in)
        if bias:
            self[name + ".bias"] = (n_out,)

    def conv(self, name, n_in, n_out, k):
        self[name + ".weight"] = (n_out, n_in, k, k)
        self[name + ".bias"] = (n_out,)

    def resnet(self, name, n_in, n_out, temb=None):
        self.affine(name + ".norm1", n_in)
        self.conv(name + ".conv1", n_in, n_out, 3)
        if temb:
            self.linear(name + ".time_emb_proj", temb, n_out)
        self.affine(name + ".norm2", n_out)
        self.conv(name + ".conv2", n_out, n_out, 3)
        if n_in != n_out:
            self.conv(name + ".conv_shortcut", n_in, n_out, 1)

    def transformer(self, name, ch, depth, context, use_linear):
        self.affine(name + ".norm", ch)
        for part in ("proj_in", "proj_out"):
            if use_linear:
                self.linear(f"{name}.{part}", ch, ch)
            else:
                self.conv(f"{name}.{part}", ch, ch, 1)
        for d in range(depth):
            block = f"{name}.transformer_blocks.{d}"
            for i, width in ((1, ch), (2, context)):
                self.affine(f"{block}.norm{i}", ch)
                self.linear(f"{block}.attn{i}.to_q", ch, ch, bias=False)
                self.linear(f"{block}.attn{i}.to_k", width, ch, bias=False)
                self.linear(f"{block}.attn{i}.to_v", width, ch, bias=False)
                self.linear(f"{block}.attn{i}.to_out.0", ch, ch)
            self.affine(f"{block}.norm3", ch)
            self.linear(f"{block}.ff.net.0.proj", ch, 8 * ch)
            self.linear(f"{block}.ff.net.2", 4 * ch, ch)


def unet_shapes(cfg):
    s = Shapes()
    chans, layers, context = cfg["block_out_channels"], cfg["layers_per_block"], cfg["cross_attention_dim"]
    linear, n = cfg["use_linear_projection"], len(cfg["block_out_channels"])
    depth = cfg.get("transformer_layers_per_block", 1)
    depth = depth if isinstance(depth, list) else [depth] * n
    temb = 4 * chans[0]
    s.conv("conv_in", cfg["in_channels"], chans[0], 3)
    s.linear("time_embedding.linear_1", chans[0], temb)
    s.linear("time_embedding.linear_2", temb, temb)
    if cfg.get("addition_embed_type"):
        s.linear("add_embedding.linear_1", cfg["projection_class_embeddings_input_dim"], temb)
        s.linear("add_embedding.linear_2", temb, temb)
    skips, ch = [chans[0]], chans[0]
    for i, kind in enumerate(cfg["down_block_types"]):
        for j in range(layers):
            s.resnet(f"down_blocks.{i}.resnets.{j}", ch, chans[i], temb)
            ch = chans[i]
            skips.append(ch)
            if kind.startswith("CrossAttn"):
                s.transformer(f"down_blocks.{i}.attentions.{j}", ch, depth[i], context, linear)
        if i + 1 < n:
            s.conv(f"down_blocks.{i}.downsamplers.0.conv", ch, ch, 3)
            skips.append(ch)
    for j in range(2):
        s.resnet(f"mid_block.resnets.{j}", ch, ch, temb)
    s.transformer("mid_block.attentions.0", ch, depth[-1], context, linear)
    for i, kind in enumerate(cfg["up_block_types"]):
        out = chans[n - 1 - i]
        for j in range(layers + 1):
            s.resnet(f"up_blocks.{i}.resnets.{j}", ch + skips.pop(), out, temb)
            ch = out
            if kind.startswith("CrossAttn"):
                s.transformer(f"up_blocks.{i}.attentions.{j}", ch, depth[n - 1 - i], context, linear)
        if i + 1 < n:
            s.conv(f"up_blocks.{i}.upsamplers.0.conv", ch, ch, 3)
    s.affine("conv_norm_out", chans[0])
    s.conv("conv_out", chans[0], cfg["out_channels"], 3)
    return s


def vae_shapes(cfg):
    s = Shapes()
    chans, layers, n = cfg["block_out_channels"], cfg["layers_per_block"], len(cfg["block_out_channels"])
    z = cfg["latent_channels"]

    def middle(side, ch):
        for j in range(2):
            s.resnet(f"{side}.mid_block.resnets.{j}", ch, ch)
        attn = f"{side}.mid_block.attentions.0"
        s.affine(attn + ".group_norm", ch)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            s.linear(f"{attn}.{part}", ch, ch)

    s.conv("encoder.conv_in", 3, chans[0], 3)
    ch = chans[0]
    for i in range(n):
        for j in range(layers):
            s.resnet(f"encoder.down_blocks.{i}.resnets.{j}", ch, chans[i])
            ch = chans[i]
        if i + 1 < n:
            s.conv(f"encoder.down_blocks.{i}.downsamplers.0.conv", ch, ch, 3)
    middle("encoder", ch)
    s.affine("encoder.conv_norm_out", ch)
    s.conv("encoder.conv_out", ch, 2 * z, 3)
    s.conv("quant_conv", 2 * z, 2 * z, 1)
    s.conv("post_quant_conv", z, z, 1)
    s.conv("decoder.conv_in", z, ch, 3)
    middle("decoder", ch)
    for i in range(n):
        out = chans[n - 1 - i]
        for j in range(layers + 1):
            s.resnet(f"decoder.up_blocks.{i}.resnets.{j}", ch, out)
            ch = out
        if i + 1 < n:
            s.conv(f"decoder.up_blocks.{i}.upsamplers.0.conv", ch, ch, 3)
    s.affine("decoder.conv_norm_out", ch)
    s.conv("decoder.conv_out", ch, 3, 3)
    return s


def clip_shapes(cfg, projection=False):
    s = Shapes()
    h = cfg["hidden_size"]
    s["text_model.embeddings.token_embedding.weight"] = (cfg["vocab_size"], h)
    s["text_model.embeddings.position_embedding.weight"] = (cfg["max_position_embeddings"], h)
    for i in range(cfg["num_hidden_layers"]):
        layer = f"text_model.encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            s.linear(f"{layer}.self_attn.{part}", h, h)
        s.affine(layer + ".layer_norm1", h)
        s.linear(layer + ".mlp.fc1", h, cfg["intermediate_size"])
        s.linear(layer + ".mlp.fc2", cfg["intermediate_size"], h)
        s.affine(layer + ".layer_norm2", h)
    s.affine("text_model.final_layer_norm", h)
    if projection:
        s.linear("text_projection", h, cfg["projection_dim"], bias=False)
    return s


# --- configurations ---
def unet_config(kind, full=False):
    cfg = {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.25.0",
        "act_fn": "silu",
        "center_input_sample": False,
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "sample_size": 16,
        "upcast_attention": False,
        "use_linear_projection": False,
    }
    if kind == "sdxl":
        cfg.update(
            block_out_channels=[32, 64, 128],
            cross_attention_dim=96,
            attention_head_dim=[1, 1, 2],
            transformer_layers_per_block=[1, 1, 2],
            use_linear_projection=True,
            down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=6 * 256 + 64,
        )
        return cfg
    cfg.update(
        down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        block_out_channels=[32, 64, 64, 64],
        cross_attention_dim=32,
        attention_head_dim=8,
    )
    if kind == "sd2":
        cfg.update(attention_head_dim=[2, 4, 4, 4], use_linear_projection=True, cross_attention_dim=48)
    if full:
        cfg.update(block_out_channels=[320, 640, 1280, 1280], cross_attention_dim=768, sample_size=64)
    return cfg


def vae_config(kind, full=False):
    chans = [128, 256, 512, 512] if full else [32, 32, 32, 32]
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.25.0",
        "act_fn": "silu",
        "block_out_channels": chans,
        "layers_per_block": 2,
        "latent_channels": LATENT_CHANNELS,
        "in_channels": 3,
        "out_channels": 3,
        "norm_num_groups": 32,
        "sample_size": 512 if full else 128,
        "scaling_factor": 0.13025 if kind == "sdxl" else 0.18215,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }


def clip_config(hidden, layers, heads, act, architecture="CLIPTextModel", projection=None):
    return {
        "architectures": [architecture],
        "model_type": "clip_text_model",
        "vocab_size": 49408,
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 77,
        "hidden_act": act,
        "layer_norm_eps": 1e-05,
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "projection_dim": projection or hidden,
        "torch_dtype": "float32",
    }


def scheduler_config(kind):
    return {
        "_class_name": "EulerDiscreteScheduler" if kind == "sdxl" else "DDIMScheduler",
        "_diffusers_version": "0.25.0",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction" if kind == "sd2" else "epsilon",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "trained_betas": None,
    }


# --- diffusers folder ---
def write_json(path, obj):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(obj, indent=2) + "\n")


def write_folder(kind, out, seed, tokenizer):
    encoders = {
        "sd1": {"text_encoder": clip_config(32, 4, 4, "quick_gelu")},
        "sd2": {"text_encoder": clip_config(48, 4, 4, "gelu")},
        # the trainer takes hidden state 11 of the first SDXL encoder: it needs 12 layers
        "sdxl": {
            "text_encoder": clip_config(32, 12, 4, "quick_gelu"),
            "text_encoder_2": clip_config(64, 4, 4, "gelu", "CLIPTextModelWithProjection", 64),
        },
    }[kind]
    parts = {
        "unet": (unet_config(kind), unet_shapes(unet_config(kind)), "diffusion_pytorch_model.safetensors"),
        "vae": (vae_config(kind), vae_shapes(vae_config(kind)), "diffusion_pytorch_model.safetensors"),
    }
    for name, cfg in encoders.items():
        with_projection = cfg["architectures"][0].endswith("WithProjection")
        parts[name] = (cfg, clip_shapes(cfg, with_projection), "model.safetensors")
    for name, (cfg, shapes, file_name) in parts.items():
        write_json(out / name / "config.json", cfg)
        tensors = {k: make_tensor(seed, f"{name}/{k}", shp, np.float32) for k, shp in shapes.items()}
        save_file(tensors, out / name / file_name, metadata={"format": "pt"})
    write_json(out / "scheduler" / "scheduler_config.json", scheduler_config(kind))

    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.25.0"}
    if kind == "sdxl":
        index["_class_name"] = "StableDiffusionXLPipeline"
        index["force_zeros_for_empty_prompt"] = True
    else:
        index.update(feature_extractor=[None, None], safety_checker=[None, None], requires_safety_checker=False)
    index["scheduler"] = ["diffusers", scheduler_config(kind)["_class_name"]]
    index.update(unet=["diffusers", "UNet2DConditionModel"], vae=["diffusers", "AutoencoderKL"])
    sources = {
        "sd1": {"tokenizer": "openai_clip-vit-large-patch14"},
        "sd2": {"tokenizer": "stabilityai_stable-diffusion-2"},
        "sdxl": {"tokenizer": "openai_clip-vit-large-patch14", "tokenizer_2": "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k"},
    }[kind]
    for name, cfg in encoders.items():
        index[name] = ["transformers", cfg["architectures"][0]]
    for name, source in sources.items():
        index[name] = ["transformers", "CLIPTokenizer"]
        if tokenizer:
            shutil.copytree(Path(tokenizer) / source, out / name, dirs_exist_ok=True)
    write_json(out / "model_index.json", index)
