"""What every test process needs before torch and transformers are imported: no network, one thread, quiet libraries, and the device.

TEST_DEVICE in the environment: unset, all runs on the CPU and kernels in Triton's interpreter; "cuda", on the GPU here; "pretend", on one
that is none (tests/pretend_gpu). The last two are for the tests marked gpu: `TEST_DEVICE=cuda python -m pytest -m gpu tests`.
"""

import os
import sys

DEVICES = ("cpu", "cuda", "pretend")
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}
NO_GPU = "-1"  # not "", which Windows takes for unset


def device_of_tests() -> str:
    """One of DEVICES."""
    device = os.environ.get("TEST_DEVICE", "cpu")
    if device not in DEVICES:
        sys.exit(f"TEST_DEVICE={device} in the environment: take one of {', '.join(DEVICES)}")
    return device


def go_offline() -> None:
    """Sets the environment of this process; call it before the libraries are imported. A second call changes nothing."""
    os.environ.update(SETTINGS)
    device = device_of_tests()
    if device != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = NO_GPU
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # our kernels then run on the CPU; Triton reads it when it is imported
    if device == "pretend" and "pretend_gpu" not in sys.modules:
        from tests.pretend_gpu import install

        sys.modules["pretend_gpu"] = install()
