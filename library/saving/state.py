"""The folder of a saved training state, in the layout of accelerate and sd-scripts, and one more file of ours.

    model.safetensors       the network alone
    optimizer.bin           state_dict of the optimizer
    scheduler.bin           state_dict of the learning-rate schedule, if it has one
    scaler.pt               state_dict of the fp16 gradient scaler, if there is one
    random_states_N.pkl     random generators of process N
    train_state.json        {"current_epoch": from 1, "current_step": optimizer steps done}
    run.json                ours: what it takes to go on exactly, see RunRecord

Tensors are read and written here, what needs none in library.saving.state_record. Nothing but tensors, plain values and numpy arrays
is unpickled.
"""

import codecs
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from library.saving.state_record import (
    FORMAT,
    NETWORK,
    OPTIMIZER,
    POSITION,
    RUN,
    SCALER,
    SCHEDULER,
    RunRecord,
    network_file,
    random_states_file,
)
from library.saving.weights import load_pickled, load_tensors, save_tensors

_ARRAY_MAKERS = {"_reconstruct": np.empty(0).__reduce__()[0], "scalar": np.float64(0).__reduce__()[0]}
NUMPY_GLOBALS = [
    (maker, f"{package}.multiarray.{name}") for name, maker in _ARRAY_MAKERS.items() for package in ("numpy.core", "numpy._core")
] + [np.ndarray, np.dtype, np.dtypes.UInt32DType, np.dtypes.Float64DType, codecs.encode]
"""What a pickled array or number of numpy 1 or numpy 2 is made of."""


@dataclass(frozen=True)
class TrainingState:
    """The tensors by name and the state_dicts; scheduler and scaler are None where a run has none."""

    network: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    scheduler: Mapping[str, Any] | None
    scaler: Mapping[str, Any] | None


def write_state(folder: Path, state: TrainingState, *, epoch: int, global_step: int, record: RunRecord | None) -> None:
    """Everything but the random states. record: None writes what sd-scripts writes and no more."""
    save_tensors(folder / NETWORK, state.network, {"format": "pt"})
    for name, content in ((OPTIMIZER, state.optimizer), (SCHEDULER, state.scheduler), (SCALER, state.scaler)):
        if content is not None:
            torch.save(content, folder / name)
    _write_json(folder / POSITION, {"current_epoch": epoch, "current_step": global_step})
    if record is not None:
        _write_json(folder / RUN, {"format": FORMAT, **asdict(record)})


def write_random_states(folder: Path, process: int, states: Mapping[str, Any]) -> None:
    """states: in accelerate's form, see library.training.random_states."""
    torch.save(dict(states), folder / random_states_file(process))


def read_state(folder: Path) -> TrainingState:
    """Raises ValueError for damaged files and for what is no plain data."""
    optimizer = load_pickled(folder / OPTIMIZER, NUMPY_GLOBALS)
    if not isinstance(optimizer, dict) or not {"state", "param_groups"} <= set(optimizer):
        raise ValueError(f"{folder / OPTIMIZER} holds no state of an optimizer")
    return TrainingState(
        network=_without_wrapper(load_tensors(network_file(folder))),
        optimizer=optimizer,
        scheduler=_read_if_there(folder / SCHEDULER),
        scaler=_read_if_there(folder / SCALER),
    )


def read_random_states(folder: Path, process: int) -> dict[str, Any] | None:
    """None if the state has none for this process."""
    return _read_if_there(folder / random_states_file(process))


def _read_if_there(path: Path) -> Any | None:
    return load_pickled(path, NUMPY_GLOBALS) if path.is_file() else None


def _without_wrapper(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """States of several GPUs carry the wrapper's name before every tensor's."""
    if tensors and all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
