"""A training run on a tiny model and drawn images, for tests of what happens around the steps."""

from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image

from library.training.network_recipe import Run, prepare
from tests.golden_workshop import read_command_line


def write_images(folder: Path, count: int = 4, size: int = 64) -> Path:
    """`count` plain pictures with captions in `<folder>/1_thing`; returns `folder`."""
    images = folder / "1_thing"
    images.mkdir(parents=True)
    for number in range(count):
        shade = 40 + 40 * number
        Image.new("RGB", (size, size), (shade % 256, 255 - shade % 256, 128)).save(images / f"{number}.png")
        (images / f"{number}.txt").write_text(f"thing, number {number}, plain", encoding="utf-8")
    return folder


def prepared(model: Path, data: Path, out: Path, *options: str) -> Run:
    """A run of 4 steps of a rank 2 LoRA, 64 pixels; later options replace these."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    torch.set_num_threads(1)
    argv = [
        "--pretrained_model_name_or_path", str(model), "--train_data_dir", str(data), "--output_dir", str(out), "--output_name", "lora",
        "--resolution", "64", "--caption_extension", ".txt", "--network_module", "networks.lora", "--network_dim", "2", "--seed", "7",
        "--max_train_steps", "4", "--learning_rate", "1e-2", "--max_data_loader_n_workers", "0", "--mixed_precision", "no", *options,
    ]  # fmt: skip
    args, family = read_command_line("sd", argv)
    return prepare(args, family)
