"""What lets a look at the model in between leave no trace in the training: random states and modes are put back afterwards."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def unchanged_random_states(device: torch.device) -> Iterator[None]:
    """Puts python's, numpy's and torch's random states (of the CPU and of `device`) back as they were."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    gpus = [device.index if device.index is not None else torch.cuda.current_device()] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def in_eval_mode(*modules: nn.Module) -> Iterator[None]:
    """Puts the modules in eval mode, so that dropout is off, and every part of them back into the mode it was in."""
    training = [part for module in modules for part in module.modules() if part.training]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
