"""What every test process needs before torch and transformers are imported: no network, one thread, quiet libraries."""

import os

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
