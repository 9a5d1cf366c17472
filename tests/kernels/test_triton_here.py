"""What can be known of Triton's kernels without a GPU: that they compile for one, and where they are asked to run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from library.kernels import triton_here


def test_every_kernel_compiles_for_three_generations_of_gpus(tmp_path):
    pytest.importorskip("triton", reason="the kernels need the package triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    program = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.strip()) == (0, "15"), done.stderr


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
