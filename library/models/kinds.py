"""Tells which kind of model a file or folder holds, and what to do when it is not the kind a script trains."""

from collections.abc import Iterable, Mapping
from typing import Any

from library.models.ldm_keys import CLIP_PREFIX, OPENCLIP_PREFIX, UNET_PREFIX, VAE_PREFIX
from library.models.sdxl_keys import TEXT_ENCODER_2_PREFIX

SD1, SD2, SDXL = "an SD1 model", "an SD2 model", "an SDXL model"

BASE_MODEL_VERSIONS = {SD1: "sd_v1", SD2: "sd_v2", SDXL: "sdxl_base_v1-0"}
"""What metadata and states call them (ss_base_model_version)."""

ADAPTER_MARKS = (".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", ".hada_w1", ".lokr_w1", ".oft_blocks", ".oft_diag", ".dora_scale")

# The first row whose mark begins one of the names decides; what is no whole model comes last.
MARKS = (
    (TEXT_ENCODER_2_PREFIX, SDXL),
    ("conditioner.embedders.0.model.", "the SDXL refiner"),
    (UNET_PREFIX + "joint_blocks.", "an SD3 model"),
    ("joint_blocks.", "an SD3 model"),
    (UNET_PREFIX + "double_blocks.", "a FLUX model"),
    ("double_blocks.", "a FLUX model"),
    (OPENCLIP_PREFIX, SD2),
    (CLIP_PREFIX, SD1),
    (UNET_PREFIX, "a U-Net without its text encoder"),
    ("down_blocks.", "the U-Net of a diffusers folder"),
    ("text_model.", "a text encoder"),
    (VAE_PREFIX, "a VAE"),
    ("encoder.", "a VAE"),
)

WAYS_OUT = {
    SDXL: "train it with sdxl_train_network.py",
    "the SDXL refiner": "train the SDXL base model instead",
    "an adapter (LoRA)": "name the model it was trained on, and the adapter with --network_weights or --base_weights",
    "the U-Net of a diffusers folder": "name the folder above it, the one with model_index.json",
    "a U-Net without its text encoder": "name a file that holds the whole model",
    "a VAE": "name the model, and the VAE with --vae",
    "an inpainting model": "train the ordinary model it was made from",
}


def base_model_version(kind: str, *, v_parameterization: bool) -> str:
    """What metadata and states call a base model of this kind; SDXL models that predict v have no name of their own."""
    return BASE_MODEL_VERSIONS[kind] + ("_v" if v_parameterization and kind != SDXL else "")


def kind_of_tensors(names: Iterable[str]) -> str:
    """The kind of model whose tensors have these names, in words."""
    names = list(names)
    if any(mark in name for name in names for mark in ADAPTER_MARKS):
        return "an adapter (LoRA)"
    for mark, kind in MARKS:
        if any(name.startswith(mark) for name in names):
            return kind
    return "an unknown model"


def kind_of_unet_config(config: Mapping[str, Any]) -> str:
    """The kind of model that a diffusers U-Net configuration belongs to, "an SD model" if its widths do not say which."""
    if config.get("in_channels", 4) != 4:
        return "an inpainting model"
    if config.get("addition_embed_type") == "text_time":
        return "the SDXL refiner" if config.get("cross_attention_dim") == 1280 else SDXL
    return {768: SD1, 1024: SD2}.get(config.get("cross_attention_dim"), "an SD model")


def require_kind(found: str, wanted: str, path: str) -> None:
    """Raises ValueError, with a way out, if the model at `path` is of another kind than the script and its options want."""
    if found == wanted or (found == "an SD model" and wanted in (SD1, SD2)):
        return
    way_out = WAYS_OUT.get(found, "it cannot be trained here")
    if wanted == SDXL and found in (SD1, SD2, "an SD model"):
        way_out = "train it with train_network.py" + (" --v2" if found == SD2 else "")
    elif found == SD2:
        way_out = "add --v2"
    elif found == SD1:
        way_out = "leave out --v2"
    raise ValueError(f"--pretrained_model_name_or_path {path} is {found}, not {wanted}: {way_out}")
