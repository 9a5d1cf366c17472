"""Training from the same command line and seed gives the numbers, files and metadata that the reference gave.

One test for each recorded run below --golden-dir; `-k NAME` picks some. `python -m tests.golden_runs NAME` shows one in detail.
"""

import importlib.metadata
import importlib.util

import pytest

from tests.golden_compare import differences, limits_for
from tests.golden_runs import other_decoder
from tests.golden_workshop import Workshop, recorded_names, recorded_run

SHOWN = 20


def pytest_generate_tests(metafunc):
    if "run_name" in metafunc.fixturenames:
        names = recorded_names(metafunc.config.getoption("golden_dir"))
        metafunc.parametrize("run_name", names, ids=names)


def test_golden_run(run_name: str, workshop: Workshop):
    recorded = recorded_run(workshop.golden, run_name)
    skip_what_is_not_reproduced(recorded)
    if recorded["status"] == "error":
        refusal = refusal_of(workshop, run_name)
        assert refusal, f"{run_name}: the reference refuses this ({recorded['error']}), ours trained it"
        return
    found = differences(recorded, workshop.made(run_name), limits_for(recorded, other_decoder=other_decoder()))
    if found:
        more = [f"... and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        pytest.fail("\n".join([f"{run_name}: {len(found)} differences", *found[:SHOWN], *more]), pytrace=False)


def skip_what_is_not_reproduced(recorded: dict) -> None:
    name, arguments = recorded["name"], recorded["args"]
    if recorded["status"] == "error" and not name.endswith("_error"):
        pytest.skip(f"a defect of the reference: it crashed here ({recorded['error']})")
    if name.startswith("m_base_weights"):
        pytest.skip("a defect of the reference: merging base weights makes the next network wrap more layers")
    if "lycoris.kohya" in arguments and importlib.util.find_spec("lycoris") is None:
        pytest.skip("needs the package lycoris_lora")
    if name == "s_loha_tucker" and importlib.metadata.version("lycoris_lora") >= "4":
        pytest.skip("a defect of LyCORIS 3, which LyCORIS 4 mends: wrong gradients of hada_w1_a and hada_w2_a in Tucker form")


def refusal_of(workshop: Workshop, run_name: str) -> str:
    """What our side says when it refuses a command line, "" if it does not."""
    try:
        workshop.made(run_name)
    except (ValueError, SystemExit) as refusal:
        return str(refusal)
    return ""
