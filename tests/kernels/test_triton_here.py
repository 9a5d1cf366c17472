"""What can be known of Triton's kernels without a GPU: that they compile for one, and where they are asked to run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from library.kernels import triton_here

KERNELS = {
    *(f"_{name}{way}" for name in ("group_norm", "layer_norm", "geglu") for way in ("", "_backward")),
    *("_lion", "_dadapt_lion", "_adamw_small", "_adamw_8bit"),
    *("_dadapt_adam_averages", "_dadapt_preprint_averages", "_dadapt_adam_move", "_prodigy_averages", "_prodigy_move"),
}


def test_every_kernel_compiles_for_two_generations_of_gpus(tmp_path):
    pytest.importorskip("triton", reason="the kernels need the package triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    program = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == KERNELS


@pytest.mark.parametrize(
    ("capability", "able"),
    [((6, 1), set()), ((7, 5), {torch.float16, torch.float32}), ((8, 6), {torch.float16, torch.float32, torch.bfloat16})],
)
def test_each_dtype_has_its_oldest_gpu(capability, able, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    assert {dtype for dtype in dtypes if triton_here.may_run(torch.device("cuda"), dtype)} == able
    assert not any(triton_here.may_run(torch.device("cpu"), dtype) for dtype in dtypes)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not any(triton_here.may_run(torch.device("cuda"), dtype) for dtype in dtypes)


@pytest.mark.parametrize("kind", [TypeError, KeyError, ImportError])
def test_what_fails_in_any_way_ends_no_run(kind, caplog):
    pytest.importorskip("triton", reason="the kernels need the package triton")

    def attempt():
        raise kind("unhashable")

    assert not triton_here.runs(attempt, "this is done by plain torch")
    assert "this is done by plain torch, a little slower: Triton does not work here (" in caplog.text


def test_a_package_that_does_not_import_ends_no_run(tmp_path, monkeypatch, caplog):
    (tmp_path / "triton.py").write_text("raise ImportError('DLL load failed while importing libtriton')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    assert not triton_here.runs(lambda: pytest.fail("tried"), "this is done by plain torch")
    assert caplog.messages == [
        "this is done by plain torch, a little slower: Triton does not work here (DLL load failed while importing libtriton)"
    ]
