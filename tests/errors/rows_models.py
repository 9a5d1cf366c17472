"""Rows of docs/errors.md: models and adapters."""

import shutil

import torch

from tests.errors.faults import changed_folder, cut, hostile, lose_a_tensor, tensors, without
from tests.errors.world import LATER
from tests.errors.world import WrongInput as Row

LYCORIS = {"network_module": "lycoris.kohya"}


def model(name: str, **more) -> dict:
    return {"pretrained_model_name_or_path": name} | more


def late(wrong: str, said: str, options: dict, files: dict | None = None, **more) -> Row:
    """A mistake that only the file itself shows."""
    return Row(wrong, said, options, files or {}, when=LATER, **more)


MODELS = [
    Row(
        "a model that is not there",
        "--pretrained_model_name_or_path none.safetensors: there is no such file or folder (looked for from FOLDER)",
        model("none.safetensors"),
    ),
    late("an empty file", "m.safetensors is not a whole .safetensors file: it is empty", model("m.safetensors"), {"m.safetensors": b""}),
    late(
        "a web page instead of the model",
        "m.safetensors is not a whole .safetensors file: it is a web page; the download needs a login or another address",
        model("m.safetensors"),
        {"m.safetensors": b"<!DOCTYPE html><html>"},
    ),
    late(
        "a git-lfs pointer",
        (
            "m.safetensors is not a whole .safetensors file: it is a git-lfs pointer, a few lines of text that stand for the "
            "model; run `git lfs pull` or download the file itself"
        ),
        model("m.safetensors"),
        {"m.safetensors": b"version https://git-lfs.github.com/spec/v1\noid"},
    ),
    late(
        "a download cut off",
        "m.safetensors is not a whole .safetensors file: it is damaged or cut off; download it again",
        model("m.safetensors"),
        {"m.safetensors": cut("sd1.safetensors")},
    ),
    late(
        "a .ckpt of a few bytes",
        "m.ckpt is not a model file: it is damaged or cut off; download it again",
        model("m.ckpt"),
        {"m.ckpt": b"\x80\x02}q\x00(X\x05"},
    ),
    late(
        "a pickle named .safetensors",
        "m.safetensors is not a whole .safetensors file: it is a torch pickle with the wrong ending; rename it to .ckpt",
        model("m.safetensors"),
        {"m.safetensors": lambda path: torch.save({"a": torch.zeros(1)}, path)},
    ),
    late(
        "a .ckpt that wants to run code",
        (
            "m.ckpt holds a Python object (io.open), not only tensors, so it could run code and is not opened. Convert it to "
            ".safetensors with a program you trust."
        ),
        model("m.ckpt"),
        {"m.ckpt": hostile},
    ),
    late(
        "a header of 4 million terabytes",
        "m.safetensors is not a whole .safetensors file: it is damaged or cut off; download it again",
        model("m.safetensors"),
        {"m.safetensors": (2**62).to_bytes(8, "little") + b"{}"},
    ),
    late(
        "a LoRA as the model",
        (
            "--pretrained_model_name_or_path earlier/lora.safetensors is an adapter (LoRA), not an SD1 model: name the model it "
            "was trained on, and the adapter with --network_weights or --base_weights"
        ),
        model("earlier/lora.safetensors"),
    ),
    late(
        "a VAE as the model",
        "--pretrained_model_name_or_path m.safetensors is a VAE, not an SD1 model: name the model, and the VAE with --vae",
        model("m.safetensors"),
        {"m.safetensors": tensors(encoder__conv_in__weight=(4, 3), decoder__conv_in__weight=(4, 4))},
    ),
    late(
        "a FLUX model",
        "--pretrained_model_name_or_path m.safetensors is a FLUX model, not an SD1 model: it cannot be trained here",
        model("m.safetensors"),
        {"m.safetensors": tensors(double_blocks__0__img_attn__qkv__weight=(4, 3))},
    ),
    late(
        "an SDXL model with train_network.py",
        ("--pretrained_model_name_or_path sdxl.safetensors is an SDXL model, not an SD1 model: train it with sdxl_train_network.py"),
        model("sdxl.safetensors"),
    ),
    late(
        "an SD1 model with sdxl_train_network.py",
        "--pretrained_model_name_or_path sd1.safetensors is an SD1 model, not an SDXL model: train it with train_network.py",
        model("sd1.safetensors"),
        script="sdxl",
    ),
    late(
        "an SD2 model without `--v2`",
        "--pretrained_model_name_or_path sd2.safetensors is an SD2 model, not an SD1 model: add --v2",
        model("sd2.safetensors"),
    ),
    late(
        "an SD1 model with `--v2`",
        "--pretrained_model_name_or_path sd1.safetensors is an SD1 model, not an SD2 model: leave out --v2",
        model("sd1.safetensors", v2=True),
    ),
    late("a folder without a model", "images is no diffusers model: unet/config.json cannot be read, here or on the hub", model("images")),
    late(
        "a folder whose U-Net is cut off",
        "broken: cannot load unet (…)",
        model("broken"),
        {
            "broken": changed_folder(
                "sd1", lambda path: cut("sd1/unet/diffusion_pytorch_model.safetensors")(path / "unet/diffusion_pytorch_model.safetensors")
            )
        },
    ),
    late(
        "a folder whose U-Net lacks a tensor",
        "broken: cannot load unet: its file lacks weights; download it again",
        model("broken"),
        {"broken": changed_folder("sd1", lose_a_tensor("unet/diffusion_pytorch_model.safetensors", "conv_in.weight"))},
    ),
    late(
        "a folder without its text encoder",
        "broken: cannot load text_encoder (…)",
        model("broken"),
        {"broken": changed_folder("sd1", lambda path: shutil.rmtree(path / "text_encoder"))},
    ),
    late(
        "a hub id that cannot be fetched",
        "nobody/nothing is no diffusers model: unet/config.json cannot be read, here or on the hub",
        model("nobody/nothing"),
    ),
    Row(
        "`--vae` that is not there",
        "--vae none.safetensors: there is no such file or folder; leave --vae out to use the model's own",
        {"vae": "none.safetensors"},
    ),
    late(
        "`--vae` that is a LoRA", "--vae earlier/lora.safetensors holds no VAE but an adapter (LoRA)", {"vae": "earlier/lora.safetensors"}
    ),
    late(
        "`--vae` that wants to run code",
        (
            "v.pt holds a Python object (io.open), not only tensors, so it could run code and is not opened. Convert it to "
            ".safetensors with a program you trust."
        ),
        {"vae": "v.pt"},
        {"v.pt": hostile},
    ),
]

NETWORKS = [
    Row(
        "a network module that is not there",
        "--network_module networks.lorra: there is no such module here; the usual one is networks.lora",
        {"network_module": "networks.lorra"},
    ),
    Row(
        "a path instead of a module",
        "--network_module networks/lora.py: give a module's name with dots, such as networks.lora, and not a path",
        {"network_module": "networks/lora.py"},
    ),
    Row(
        "lycoris is not installed",
        "--network_module lycoris.kohya needs the package 'lycoris': pip install lycoris-lora, or use networks.lora",
        LYCORIS,
        patch=without("lycoris"),
    ),
    late(
        "a module that is no network module",
        ("--network_module json is no network module: it has no create_network and no create_network_from_weights; use networks.lora"),
        {"network_module": "json"},
    ),
    late(
        "text where a number belongs in `--network_args`",
        "--network_args conv_dim=four: networks.lora needs a whole number here",
        {"network_args": ["conv_dim=four"]},
    ),
    late(
        "too few ranks", "--network_args block_dims has 3 values, this model needs 25 (12 + 1 + 12)", {"network_args": ["block_dims=1,2,3"]}
    ),
    late(
        "an algorithm that lycoris does not have",
        (
            "--network_module lycoris.kohya with --network_args algo=nope failed with …. Check --network_args against what that "
            "package's version takes, or update it; networks.lora is ours"
        ),
        {**LYCORIS, "network_args": ["algo=nope"]},
    ),
    Row(
        "`--network_weights` that is not there",
        "--network_weights none.safetensors: there is no such file; leave it out to start with a new network",
        {"network_weights": "none.safetensors"},
    ),
    late(
        "`--network_weights` cut off",
        "l.safetensors is not a whole .safetensors file (…): copy or download it again",
        {"network_weights": "l.safetensors"},
        {"l.safetensors": cut("earlier/lora.safetensors")},
    ),
    late(
        "`--network_weights` that is a text file",
        "l.txt is not a whole torch file: copy or download it again",
        {"network_weights": "l.txt"},
        {"l.txt": "hello"},
    ),
    late(
        "`--network_weights` for another family",
        (
            "sdxl_lora.safetensors fits none of this model's layers: it was made for another model family or kind of network. The "
            "file has lora_unet_input_blocks_4_1_proj_in; this network has …"
        ),
        {"network_weights": "sdxl_lora.safetensors"},
    ),
    late(
        "`--network_weights` of another rank",
        (
            "earlier/lora.safetensors: lora_down.weight of lora_te_text_model_encoder_layers_0_mlp_fc1 has rank 2 (shape 2x32) in "
            "the file, rank 8 (shape 8x32) in the network. Give --network_dim and --network_args as the file was made with, or add "
            "--dim_from_weights to follow the file"
        ),
        {"network_weights": "earlier/lora.safetensors", "network_dim": 8},
    ),
    late(
        "`--network_weights` that is a whole model",
        (
            "sd1.safetensors fits none of this model's layers: it was made for another model family or kind of network. The file "
            "has alphas_cumprod, cond_stage_model, first_stage_model; this network has …"
        ),
        {"network_weights": "sd1.safetensors"},
    ),
    late(
        "`--network_weights` that wants to run code",
        (
            "l.pt holds more than tensors, or is damaged, and is not opened: a pickle can run any program. Use a .safetensors "
            "version of the file"
        ),
        {"network_weights": "l.pt"},
        {"l.pt": hostile},
    ),
    late(
        "`--base_weights` for another family",
        (
            "sdxl_lora.safetensors fits none of this model's layers: it was made for another model family or kind of network. The "
            "file has lora_unet_input_blocks_4_1_proj_in; this network has …"
        ),
        {"base_weights": ["sdxl_lora.safetensors"]},
    ),
]

SECTIONS = {"Models": MODELS, "Networks and LoRA files": NETWORKS}
