"""The entry scripts as another program starts them: from any folder, quickly, without torch until options are good."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ("train_network", "sdxl_train_network")
RUN_AND_TELL = """
import runpy, sys
script, sys.argv = sys.argv[1], sys.argv[1:]
sys.path[0] = script.rpartition("/")[0]
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    print("status", end.code, "torch" in sys.modules)
"""


def told(script: str, *argv: str) -> str:
    command = [sys.executable, "-c", RUN_AND_TELL, (ROOT / f"{script}.py").as_posix(), *argv]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_does_not_import_torch(script):
    assert told(script, "--help") == "status 0 False"


@pytest.mark.parametrize("script", SCRIPTS)
def test_bad_options_are_refused_before_torch_is_imported(script):
    assert told(script, "--train_batch_size", "0") == "status 1 False"


@pytest.mark.parametrize("script", SCRIPTS)
def test_unknown_options_end_with_status_2(script):
    assert told(script, "--no_such_option") == "status 2 False"


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_finds_its_own_modules_from_any_folder_whatever_pythonpath_holds(script, tmp_path):
    for name in ("tools", "setup", "tests", "library"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('the {name} of another program')")
    result = subprocess.run(
        [sys.executable, str(ROOT / f"{script}.py"), "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_setup_parser_can_be_imported_by_other_programs(script):
    code = f"from {script} import setup_parser; print(setup_parser().parse_args(['--seed', '3']).seed)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout == "3\n"
