"""What every test process needs before torch and transformers are imported: no network, one thread, quiet libraries."""

import os
import shutil

SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}


def go_offline() -> None:
    """Sets the environment of this process; call it before the libraries are imported."""
    os.environ.update(SETTINGS)
    if shutil.which("nvidia-smi") is None:
        os.environ["TRITON_INTERPRET"] = "1"  # our kernels then run on the CPU; Triton reads it when it is imported
