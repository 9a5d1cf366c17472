"""What the kohya_ss GUI starts trains: the configurations of its LoRA tab for SD1, SD2 and SDXL, shipped presets among them.

They run in this process, for one epoch on small pictures; one is launched as the GUI does it. Those of USUAL run without
`--gui-dir`, and all with `--gui-dir tests/gui_commands`.
"""

import importlib.metadata
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.gui_runs import COMMANDS, SCRIPTS, GuiCommand, gui_command, gui_names, gui_world, quickly, written
from tests.tiny_runs import prepared, trained

pytestmark = pytest.mark.usefixtures("models_loaded_once")

ROOT = Path(__file__).parent.parent
USUAL = (
    "lora_sd15_gui_defaults",
    "lora_sd15_reg_samples_state",
    "lora_sd15_v2_768",
    "lora_preset_sd15_lokr_v2_0",
    "lora_sdxl_additional_params_multigpu",
    "lora_preset_sdxl_lora_adafactor_v1_0",
    "lora_preset_sdxl_lora_kudou_reira_dadaptadam_v1_0",
)


def pytest_generate_tests(metafunc):
    folder = metafunc.config.getoption("gui_dir")
    if "gui_name" in metafunc.fixturenames:
        metafunc.parametrize("gui_name", gui_names(folder) if folder else USUAL)


@pytest.fixture
def gui_folder(request) -> Path:
    return request.config.getoption("gui_dir") or COMMANDS


def test_a_configuration_of_the_gui_trains(gui_name, gui_folder, tiny_models, tmp_path, monkeypatch):
    command = gui_command(gui_folder, gui_name)
    skip_what_lycoris_cannot_do(command)
    places = gui_world(tmp_path, tiny_models(command.model))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    file, losses = train(command, places)
    if command.goes_on:
        file, losses = train(command, places, file.rename(tmp_path / "weights.safetensors"))
    assert losses and all(math.isfinite(loss) for loss in losses)
    with safe_open(file, "pt") as saved:
        assert saved.keys() and saved.metadata()["ss_output_name"] == file.stem


def train(command: GuiCommand, places: dict[str, Path], weights: Path | None = None) -> tuple[Path, list[float]]:
    """The network that a command trains, and the loss of each step."""
    run = prepared(SCRIPTS[command.script], [*written(command, places, weights), *quickly(command)])
    losses = [float(step.loss) for step in trained(run)]
    settings = run.saves.settings
    return settings.output_dir / f"{settings.output_name}{settings.extension}", losses


def skip_what_lycoris_cannot_do(command: GuiCommand) -> None:
    """LyCORIS 3, which kohya_ss pins, does not know algo=ia3, and its algo=boft breaks on the tiny models; 4 can do both."""
    if "lycoris.kohya" not in command.toml:
        return
    if importlib.util.find_spec("lycoris") is None:
        pytest.skip("needs the package lycoris_lora")
    old = importlib.metadata.version("lycoris_lora").startswith("3.")
    if old and any(f"algo={algorithm}" in command.toml for algorithm in ("ia3", "boft")):
        pytest.skip("LyCORIS 3 itself fails here")


@pytest.mark.parametrize(
    "name, told",
    [
        ("lora_preset_lokr_sd15", "--bucket_reso_steps 1 is finer than this model can work with: using 64"),
        ("lora_sdxl_gui_defaults", None),
        ("lora_sd15_gui_defaults", None),
    ],
)
def test_a_preset_that_stops_the_reference_costs_one_line(name, told, tmp_path, capsys):
    from library.args.parser import setup_parser
    from library.args.reading import read_args

    command = gui_command(COMMANDS, name)
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"")
    script = command.script.removesuffix(".py")
    read_args(setup_parser(script), script, written(command, gui_world(tmp_path, model)))
    warnings = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    assert len(warnings) == (told is not None) and (told or "") in "".join(warnings)


def test_the_gui_launches_a_training_from_its_own_folder(tiny_models, tmp_path):
    command = gui_command(COMMANDS, "lora_sdxl_gui_defaults")
    places = gui_world(tmp_path, tiny_models(command.model))
    gui = tmp_path / "gui"
    for package in ("tools", "setup", "tests"):
        (gui / package).mkdir(parents=True)
        (gui / package / "__init__.py").write_text("raise ImportError('the wrong folder')")
    launch = [sys.executable, "-m", "accelerate.commands.launch", *("no" if word == "fp16" else word for word in command.launch)]
    environment = os.environ | {"PYTHONPATH": f"{gui}{os.pathsep}{ROOT}", "HF_HUB_OFFLINE": "1"}
    line = [*launch, str(ROOT / command.script), *written(command, places), *quickly(command)]
    done = subprocess.run(line, cwd=gui, env=environment, capture_output=True, encoding="utf-8", errors="replace", timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [path.name for path in places["OUT"].glob("*.safetensors")] == ["last.safetensors"]
