"""The tools' command lines are those of sd-scripts: data/*.json lists every option its parsers had in February 2026."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from library.args.parser import options_of
from tests.args.test_option_lists import described

DATA, ROOT = Path(__file__).parent / "data", Path(__file__).parents[2]
TOOLS = sorted(path.stem.replace("__", ".") for path in DATA.glob("*.json"))
OURS = {
    "networks.merge_lora": {"lbws", "exact", "unet_ratios", "te_ratios"},
    "networks.sdxl_merge_lora": {"exact", "unet_ratios", "te_ratios"},
    "networks.svd_merge_lora": {"exact", "unet_ratios", "te_ratios", "sd_model"},
    "networks.resize_lora": {"svd_lowrank_niter"},
}
"""Options that sd-scripts did not have then."""
CACHE_TOOLS = ("tools.cache_latents", "tools.cache_text_encoder_outputs")
"""They take every option of a training script, so that its command line can be used again."""


def recorded(tool: str) -> dict[str, dict]:
    return {option["dest"]: option for option in json.loads((DATA / f"{tool.replace('.', '__')}.json").read_text())}


@pytest.mark.parametrize("tool", TOOLS)
def test_every_recorded_option_is_there_unchanged(tool):
    parser = importlib.import_module(tool).setup_parser()
    ours = {name: described(option) for name, option in options_of(parser).items()}
    wanted = recorded(tool)
    assert {name: ours.get(name) for name in wanted} == wanted
    if tool not in CACHE_TOOLS:
        assert ours.keys() - wanted.keys() == OURS.get(tool, set())


@pytest.mark.parametrize("tool", TOOLS)
def test_every_option_is_explained_in_one_line_with_its_default(tool):
    options = options_of(importlib.import_module(tool).setup_parser())
    trained = {"pretrained_model_name_or_path", "train_data_dir", "output_dir", "network_module", "resolution"}
    unclear = [name for name, option in options.items() if not option.help or "\n" in option.help or "(default: " not in option.help]
    assert not set(unclear) - (trained if tool in CACHE_TOOLS else set())


def test_help_of_every_tool_is_printed_from_any_folder_without_torch(tmp_path):
    """All in one process, each as its own program: its folder is first on the path, as when it is started."""
    for name in ("tools", "library", "networks"):  # found through the empty first entry of sys.path that -c gives
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('the {name} of another program')")
    program = """
import runpy, sys
own = list(sys.path)
for script in sys.argv[1:]:
    sys.argv[1:], sys.path[:] = ["--help"], [script.rpartition("/")[0], *own]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert end.code == 0, script
assert "torch" not in sys.modules
"""
    scripts = [str(ROOT / (tool.replace(".", "/") + ".py")) for tool in TOOLS]
    subprocess.run([sys.executable, "-c", program, *scripts], cwd=tmp_path, check=True, capture_output=True)
