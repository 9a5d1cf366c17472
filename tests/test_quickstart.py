"""quickstart.py and the demo: one command from a bare machine to a result."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import safe_open

import quickstart

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def calls(monkeypatch):
    """The commands that would be run, with the exit status each gives; making an environment makes its interpreter's file."""
    made = SimpleNamespace(commands=[], statuses={})

    def call(command, **options):
        command = [str(word) for word in command]
        made.commands.append(command)
        if command[1:3] == ["-m", "venv"]:
            for place in ("bin/python", "Scripts/python.exe"):
                (Path(command[3]) / place).parent.mkdir(parents=True)
                (Path(command[3]) / place).touch()
        return next((status for word, status in made.statuses.items() if word in command), 0)

    monkeypatch.setattr(subprocess, "call", call)
    return made


def start(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["quickstart.py", *map(str, words)])
    return quickstart.main()


def test_a_first_start_makes_an_environment_installs_and_runs(monkeypatch, tmp_path, calls):
    assert start(monkeypatch, "demo", "--venv", tmp_path / "v") == 0
    assert [next(word for word in ("venv", "-c", "pip", "examples.demo") if word in command) for command in calls.commands] == [
        "venv", "-c", "pip", "examples.demo",
    ]  # fmt: skip


def test_a_second_start_installs_nothing(monkeypatch, tmp_path, calls):
    start(monkeypatch, "test", "--venv", tmp_path / "v")
    calls.commands.clear()
    start(monkeypatch, "test", "--venv", tmp_path / "v")
    assert not [command for command in calls.commands if "pip" in command or "venv" in command]


def test_changed_requirements_are_installed(monkeypatch, tmp_path, calls):
    wanted = tmp_path / "wanted.txt"
    for text in ("a==1", "a==2"):
        wanted.write_text(text)
        start(monkeypatch, "test", "--venv", tmp_path / "v", "--requirements", wanted)
    assert len([command for command in calls.commands if "pip" in command]) == 2


def test_a_failed_installation_is_told_and_tried_again(monkeypatch, tmp_path, calls):
    calls.statuses["pip"] = 1
    for _ in range(2):
        with pytest.raises(SystemExit, match="pip could not install"):
            start(monkeypatch, "demo", "--venv", tmp_path / "v")
    assert len([command for command in calls.commands if "pip" in command]) == 2


def test_the_exit_status_is_that_of_the_tests(monkeypatch, tmp_path, calls):
    calls.statuses["pytest"] = 3
    assert start(monkeypatch, "test", "--venv", tmp_path / "v") == 3


def calls_with_a_gpu(monkeypatch, tmp_path, calls) -> tuple[int, list[bool]]:
    """Exit status of the tests where there is a GPU, and of each start of pytest whether it was for the GPU."""
    monkeypatch.delenv("TEST_DEVICE", raising=False)
    monkeypatch.setattr(quickstart.shutil, "which", lambda name: "/usr/bin/nvidia-smi" if name == "nvidia-smi" else None)
    status = start(monkeypatch, "test", "--venv", tmp_path / "v")
    return status, ["gpu" in command for command in calls.commands if "pytest" in command]


def test_where_there_is_a_gpu_what_is_marked_so_runs_there_too(monkeypatch, tmp_path, calls):
    assert calls_with_a_gpu(monkeypatch, tmp_path, calls) == (0, [False, True])
    calls.commands.clear()
    calls.statuses["gpu"] = 1
    assert calls_with_a_gpu(monkeypatch, tmp_path, calls) == (1, [False, True])
    calls.statuses["gpu"] = quickstart.NO_TESTS_FOUND
    assert calls_with_a_gpu(monkeypatch, tmp_path, calls)[0] == 0
    calls.commands.clear()
    calls.statuses["pytest"] = 3
    assert calls_with_a_gpu(monkeypatch, tmp_path, calls) == (3, [False])


def test_further_arguments_go_to_pytest(monkeypatch, tmp_path, calls):
    start(monkeypatch, "test", "tests/saving", "-k", "hash", "--venv", tmp_path / "v")
    assert calls.commands[-1][-3:] == ["tests/saving", "-k", "hash"]


def test_a_folder_that_is_no_environment_is_left_alone(monkeypatch, tmp_path, calls):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(SystemExit, match="not a virtual environment"):
        start(monkeypatch, "demo", "--venv", tmp_path)
    assert not calls.commands


@pytest.mark.parametrize("version", [(3, 6), (3, 9)])
def test_an_old_python_is_told_so(monkeypatch, version):
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    with pytest.raises(SystemExit, match=f"Python {version[0]}.{version[1]}.*3.10 or newer"):
        start(monkeypatch, "demo")


def test_the_demo_trains_a_lora_and_draws_with_it(tmp_path):
    command = [sys.executable, "-m", "examples.demo", "--output", str(tmp_path), "--steps", "3", "--sampling_steps", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-3000:]
    with safe_open(tmp_path / "lora" / "mikanbot.safetensors", "pt") as lora:
        assert lora.metadata()["ss_steps"] == "3"
    for picture in ("curves.png", "sheet.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_the_demo_hands_on_the_exit_status_of_a_failed_training(tmp_path):
    command = [sys.executable, "-m", "examples.demo", "--output", str(tmp_path), "--steps", "-1"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode != 0
