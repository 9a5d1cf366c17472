"""Trainings as the kohya_ss GUI starts them: its TOML files and command lines, on the tiny models and a few pictures.

A folder of GUI commands holds `NAME.toml` files and their command lines, in one `commands.json` or in a `NAME.json` each.
Placeholders stand for paths: {MODEL}, {DATA}, {OUT} and so on.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from tests.data.drawn import draw

COMMANDS = Path(__file__).parent / "gui_commands"
SCRIPTS = {"train_network.py": "sd", "sdxl_train_network.py": "sdxl"}
FROM_WEIGHTS = ("network_weights", "dim_from_weights")
# What a user would type into "additional parameters" to try a configuration quickly on the CPU.
QUICKLY = [
    *("--resolution", "64,64"),
    *("--min_bucket_reso", "64"),
    *("--train_batch_size", "1"),
    *("--max_train_epochs", "1"),
    *("--save_every_n_epochs", "1"),
]


@dataclass(frozen=True)
class GuiCommand:
    """script: file name. launch: options of `accelerate launch`. own: what follows the script, --config_file first."""

    name: str
    toml: str
    script: str
    launch: tuple[str, ...]
    own: tuple[str, ...]

    @property
    def goes_on(self) -> bool:
        """Whether it takes an earlier network's weights or ranks."""
        return any(line.startswith(FROM_WEIGHTS) for line in self.toml.split("\n"))

    @property
    def model(self) -> str:
        """The tiny model to train on."""
        if SCRIPTS[self.script] == "sdxl":
            return "sdxl"
        return "sd2" if re.search(r"^v2 = true", self.toml, re.MULTILINE) else "sd1"


def gui_names(folder: Path) -> list[str]:
    """Names of the LoRA tab's commands for SD1, SD2 and SDXL in the folder."""
    return sorted(name for name, argv in _argvs(folder).items() if _script_of(argv) is not None)


def gui_command(folder: Path, name: str) -> GuiCommand:
    argv = _argvs(folder)[name]
    place = _script_of(argv)
    toml = (folder / f"{name}.toml").read_text(encoding="utf-8")
    return GuiCommand(name, toml, Path(argv[place]).name, tuple(argv[2:place]), tuple(argv[place + 1 :]))


def _argvs(folder: Path) -> dict[str, list[str]]:
    together = folder / "commands.json"
    if together.exists():
        return {name: line.split() for name, line in json.loads(together.read_text(encoding="utf-8")).items()}
    return {path.stem: json.loads(path.read_text(encoding="utf-8"))["argv"] for path in folder.glob("lora_*.json")}


def _script_of(argv: list[str]) -> int | None:
    """Where in a command line the script stands; None if it is a script for other models."""
    return next((place for place, word in enumerate(argv) if Path(word).name in SCRIPTS), None)


def gui_world(folder: Path, model: Path) -> dict[str, Path]:
    """Placeholder -> path, everything made as the GUI finds or makes it before it starts a training."""
    places = {name: folder / name.lower() for name in ("DATA", "REG", "OUT", "LOG")}
    draw(places["DATA"] / "1_thing", "one.png", "two.png", size=(96, 96), caption="a thing, red, green")
    draw(places["REG"] / "1_thing", "reg.png", size=(64, 64))
    (places["OUT"] / "sample").mkdir(parents=True)
    (places["OUT"] / "sample" / "prompt.txt").write_text("a thing --w 64 --h 64 --s 1\n")
    dataset = folder / "dataset.toml"
    subset = f"[[datasets.subsets]]\nimage_dir = '{(places['DATA'] / '1_thing').as_posix()}'\ncaption_extension = '.txt'"
    dataset.write_text(f"[[datasets]]\nresolution = 64\n{subset}\n", encoding="utf-8")
    return places | {"MODEL": model, "DATASET_TOML": dataset}


def written(command: GuiCommand, places: dict[str, Path], weights: Path | None = None) -> list[str]:
    """Writes the TOML file as the GUI does; returns what follows the script on the command line.

    weights: the network to go on from, where the configuration names one or takes its ranks from one; None: a new network.
    """
    lines = [line for line in command.toml.split("\n") if not line.startswith(FROM_WEIGHTS)]
    if weights is not None:
        lines = [*command.toml.split("\n"), *([] if "{WEIGHTS}" in command.toml else ['network_weights = "{WEIGHTS}"'])]
        places = places | {"WEIGHTS": weights}
    path = places["OUT"] / "config_lora-20260101-000000.toml"
    path.write_text(_filled("\n".join(lines), places), encoding="utf-8")
    own = [_filled(word.replace("{TIMESTAMP}", "20260101-000000"), places) for word in command.own]
    assert own[:2] == ["--config_file", path.as_posix()]
    return own


def quickly(command: GuiCommand) -> list[str]:
    """QUICKLY and a precision that a CPU can train in."""
    return [*QUICKLY, "--mixed_precision", "bf16" if "fp8_base = true" in command.toml else "no"]


def _filled(text: str, places: dict[str, Path]) -> str:
    for name, place in places.items():
        text = text.replace(f"{{{name}}}", place.as_posix())
    return text
