"""Options of a training run as a parsed command line holds them, and a small run of them."""

from argparse import Namespace
from pathlib import Path

from library.args.parser import default_values, setup_parser


def network_options(script: str = "train_network", **values) -> Namespace:
    """All defaults of the script, with `values` in their place."""
    return Namespace(**default_values(setup_parser(script)) | values)


def write_images(folder: Path, count: int = 5, side: int = 64) -> Path:
    """`count` coloured pictures with captions below `folder`, each used once an epoch."""
    from PIL import Image

    place = folder / "1_thing"
    place.mkdir(parents=True)
    for number in range(count):
        Image.linear_gradient("L").resize((side, side)).rotate(90 * number).convert("RGB").save(place / f"{number}.png")
        (place / f"{number}.txt").write_text(f"thing {number}", encoding="utf-8")
    return folder


def command_line(model: Path, data: Path, out: Path, **values) -> list[str]:
    """What a shell hands on after the script's name, for a short run on a tiny model; a value of True is a switch."""
    options = {
        "pretrained_model_name_or_path": model,
        "train_data_dir": data,
        "output_dir": out,
        "output_name": "lora",
        "resolution": 64,
        "caption_extension": ".txt",
        "network_module": "networks.lora",
        "network_dim": 2,
        "learning_rate": 1e-3,
        "seed": 3,
        "max_data_loader_n_workers": 0,
        "max_train_steps": 2,
        **values,
    }
    return [str(word) for name, value in options.items() for word in ((f"--{name}",) if value is True else (f"--{name}", value))]
