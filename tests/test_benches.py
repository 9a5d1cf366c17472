"""The programs in bench/ can be started: what they import is there, and they say what they do."""

import importlib
import os
import sys
from pathlib import Path

import pytest
import torch

from bench import kernels

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "bench").glob("*.py"))}
PROGRAMS = [name for name, source in SOURCES.items() if "ArgumentParser(" in source]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_bench_answers_to_help(name, monkeypatch, capsys):
    if os.name == "nt" and "import resource" in SOURCES[name]:
        pytest.skip("it asks the system for memory in a way that Windows does not know")
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"bench.{name}").main()
    assert ended.value.code == 0 and f"bench/{name}.py" in capsys.readouterr().out


def test_the_bench_of_kernels_computes_the_same_both_ways():
    level = kernels.Level(channels=8, side=4, heads=2, batch=2, rank=2, device="cpu", dtype=torch.float32)
    for case in kernels.cases(level, fused=False):
        with torch.no_grad():
            ours, plain = (torch.as_tensor(form(*case.inputs)) for form in (case.ours, case.plain))
        torch.testing.assert_close(ours.float(), plain.float(), rtol=1e-4, atol=1e-4)
