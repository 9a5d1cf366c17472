"""The trained parts as a diffusers folder, written and read."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from examples.tiny_sd.models import SCHEDULER, VOCABULARY, make_text_encoder, make_unet


class Parts(NamedTuple):
    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel


def read_parts(folder: Path) -> Parts:
    """float32, for use."""
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32)
    return Parts(vae.eval(), unet.eval(), text_encoder.eval())


def averaged_parts(state_file: Path, vae: AutoencoderKL, seed: int = 1) -> Parts:
    """The moving average in a training state. Words that were not trained get random vectors like those that were."""
    state = torch.load(state_file)
    average = {part: {} for part in ("unet", "text")}
    for name, tensor in state["average"].items():
        part, _, rest = name.partition(".")
        average[part][rest] = tensor
    unet, text_encoder = make_unet(), make_text_encoder(VOCABULARY)
    unet.load_state_dict(average["unet"])
    (embedding,) = (name for name in average["text"] if name.endswith("token_embedding.weight"))
    trained = average["text"][embedding]
    generator = torch.Generator().manual_seed(seed)
    table = trained.mean(0) + trained.std(0) * torch.randn(VOCABULARY, trained.shape[1], generator=generator)
    table[torch.tensor(state["ids"])] = trained
    average["text"][embedding] = table
    missing, unexpected = text_encoder.load_state_dict(average["text"], strict=False)
    if unexpected or any("position_ids" not in name for name in missing):
        raise ValueError(f"{state_file} does not hold the text encoder of models.py: {missing=}, {unexpected=}")
    return Parts(vae.eval(), unet.eval(), text_encoder.eval())


def write_parts(parts: Parts, folder: Path) -> None:
    """float16, without tokenizer files: CLIP's vocabulary comes with the program."""
    for name, part in parts._asdict().items():
        part.half().save_pretrained(folder / name)
    _name_as_all_versions_do(folder / "text_encoder" / "model.safetensors")
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _name_as_all_versions_do(file: Path) -> None:
    """transformers 5 leaves the `text_model.` out of the names that every earlier version needs; it reads both."""
    named = {name if name.startswith("text_model.") else f"text_model.{name}": tensor for name, tensor in load_file(file).items()}
    save_file(named, file, metadata={"format": "pt"})
