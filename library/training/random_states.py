"""The random generators of a process, taken and put back together: python, numpy, torch on the CPU and on each GPU.

The names are those of accelerate's `random_states_N.pkl`.
"""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

PYTHON, NUMPY, TORCH, CUDA = "random_state", "numpy_random_seed", "torch_manual_seed", "torch_cuda_manual_seed"


def random_states() -> dict[str, Any]:
    """All of them as they are now. `step`, accelerate's count of micro steps, is 0: states are taken between updates."""
    states = {"step": 0, PYTHON: random.getstate(), NUMPY: np.random.get_state(), TORCH: torch.get_rng_state()}
    if torch.cuda.is_available():
        states[CUDA] = torch.cuda.get_rng_state_all()
    return states


def check_random_states(states: object) -> None:
    """Raises ValueError unless `restore_random_states` can take them."""
    missing = [name for name in (PYTHON, NUMPY, TORCH) if not isinstance(states, Mapping) or name not in states]
    if missing:
        raise ValueError(f"its random states are not whole, {', '.join(missing)} is not among them: copy the state again")


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Puts them back; GPUs beyond those that the state knows keep theirs."""
    version, numbers, gauss = states[PYTHON]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(states[NUMPY])
    torch.set_rng_state(states[TORCH])
    for device, state in enumerate(states.get(CUDA, ())[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)
