"""Every row of docs/errors.md: typed as a command line, it ends with the message that stands there."""

import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests.errors.document import ROWS, SECTIONS, TARGET, document
from tests.errors.world import SCRIPTS, as_pattern, build, command_line, message, shared_files, typed, write_files

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("models_loaded_once")


@pytest.fixture(scope="module")
def shared(session_folder, tiny_models) -> Path:
    folder = session_folder / "error_world"
    with FileLock(session_folder / "error_world.lock"):
        if not (folder / "done").exists():
            shared_files(folder, tiny_models)
            (folder / "done").touch()
    return folder


@pytest.fixture
def world(tmp_path, shared) -> Path:
    build(tmp_path, shared)
    return tmp_path


@pytest.mark.parametrize("row", [pytest.param(row, id=f"{title}: {row.wrong}") for title, rows in SECTIONS.items() for row in rows])
def test_a_wrong_input_is_told_as_the_document_says(row, world, monkeypatch):
    status, told = typed(row, world, monkeypatch)
    assert status == (0 if row.goes_on else row.status), told
    if row.goes_on:
        assert as_pattern(row.said).search(told), told
    else:
        assert as_pattern(row.said).fullmatch(message(told, world)), told
    assert "Traceback" not in told.partition("error: ")[0]
    assert not (world / "CODE_RAN").exists()


def test_the_document_holds_exactly_these_rows():
    assert TARGET.read_text(encoding="utf-8") == document(), "run python -m tests.errors.document"


def test_there_are_at_least_sixty_rows():
    assert len({row.said for row in ROWS}) >= 60


PROGRAM = """
import sys, {script} as entry
try:
    entry.main()
finally:
    print("torch" in sys.modules)
"""


WITHOUT_TORCH = [
    "`--output_dir` is a file",
    "an optimizer's package that is not there",
    "a config file that is no TOML",
    "a folder without images",
    "colours that change, `--cache_latents`",
    "a download cut off",
    "an SDXL model with train_network.py",
    "an optimizer cut off",
]


@pytest.mark.parametrize("wrong", WITHOUT_TORCH)
def test_a_real_process_refuses_without_importing_torch(wrong, world, monkeypatch):
    row = next(row for row in ROWS if row.wrong == wrong)
    monkeypatch.chdir(world)
    write_files(row)
    argv = [sys.executable, "-c", PROGRAM.format(script=SCRIPTS[row.script]), *command_line(row)]
    done = subprocess.run(argv, cwd=world, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "False\n")
    assert as_pattern(row.said).fullmatch(message(done.stderr, world))
