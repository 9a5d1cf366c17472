"""Short training runs on the tiny models, in this process, as the entry scripts would start them."""

from pathlib import Path

import torch

from tests.data.scenes import paint
from tests.golden_workshop import read_command_line


def picture_folder(folder: Path, count: int = 3, repeats: int = 4, size: tuple[int, int] = (64, 64)) -> Path:
    """A folder for --train_data_dir with `count` pictures and captions; returns it."""
    for number in range(count):
        image = paint(folder / f"{repeats}_thing" / f"p{number}.png", size, seed=number)
        image.with_suffix(".txt").write_text(f"picture {number}, red, green, blue", encoding="utf-8")
    return folder


def arguments(model: Path, data: Path, out: Path, **changes) -> list[str]:
    """A command line of three steps; `changes` by option name: True is a switch, None leaves an option out, a list is several values."""
    options = {
        "pretrained_model_name_or_path": model,
        "train_data_dir": data,
        "caption_extension": ".txt",
        "resolution": "64,64",
        "output_dir": out,
        "output_name": "lora",
        "network_module": "networks.lora",
        "network_dim": 2,
        "train_batch_size": 2,
        "learning_rate": 0.01,
        "max_train_steps": 3,
        "max_data_loader_n_workers": 0,
        "mixed_precision": "no",
        "seed": 1,
    } | changes
    argv = []
    for name, value in options.items():
        if value is not None:
            values = value if isinstance(value, list) else [] if value is True else [value]
            argv += [f"--{name}", *map(str, values)]
    return argv


def prepared(script: str, argv: list[str]):
    """The run that `prepare` builds. script: "sd" or "sdxl". Where it raises, an earlier run of this process can go on."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    from library.training.network_recipe import prepare

    args, family = read_command_line(script, argv)
    shared = [state._shared_state for state in (PartialState, AcceleratorState, GradientState)]
    before = [dict(values) for values in shared]
    for values in shared:
        values.clear()
    try:
        return prepare(args, family)
    except ValueError:
        for values, old in zip(shared, before, strict=True):
            values.update(old)
        raise


def trained(run) -> list:
    """Trains a prepared run to its end; the MicroStep of each step."""
    from library.training.network_recipe import train

    steps = []
    run.watchers.append(steps.append)
    train(run)
    return steps


def small_run(model: Path, data: Path, out: Path, *options: str):
    """A prepared SD run of four steps of one image, on one thread; `options` as typed, of which later ones replace earlier ones."""
    torch.set_num_threads(1)
    return prepared("sd", [*arguments(model, data, out, train_batch_size=1, max_train_steps=4, seed=7), *options])
