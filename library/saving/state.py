"""The folder of a saved training state, in the layout of accelerate and sd-scripts, and one more file of ours.

    model.safetensors       the network alone
    optimizer.bin           state_dict of the optimizer
    scheduler.bin           state_dict of the learning-rate schedule, if it has one
    scaler.pt               state_dict of the fp16 gradient scaler, if there is one
    random_states_N.pkl     random generators of process N
    train_state.json        {"current_epoch": from 1, "current_step": optimizer steps done}
    run.json                ours: what it takes to go on exactly, see RunRecord

Files are only read and written here. Nothing but tensors, plain values and numpy arrays is unpickled.
"""

import codecs
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from library.saving.weights import load_pickled, load_tensors, read_metadata, save_tensors

NETWORK, OPTIMIZER, SCHEDULER, SCALER = "model.safetensors", "optimizer.bin", "scheduler.bin", "scaler.pt"
POSITION, RUN = "train_state.json", "run.json"
OLD_NETWORK = "pytorch_model.bin"
"""The network in states of accelerate before 0.23."""
FORMAT = 1
"""Of run.json; another number is not read."""

_ARRAY_MAKERS = {"_reconstruct": np.empty(0).__reduce__()[0], "scalar": np.float64(0).__reduce__()[0]}
NUMPY_GLOBALS = [
    (maker, f"{package}.multiarray.{name}") for name, maker in _ARRAY_MAKERS.items() for package in ("numpy.core", "numpy._core")
] + [np.ndarray, np.dtype, np.dtypes.UInt32DType, np.dtypes.Float64DType, codecs.encode]
"""What a pickled array or number of numpy 1 or numpy 2 is made of."""


PLAIN = {bool: bool, int: int, float: (int, float), str: str}
"""What JSON gives for each kind of field; the others are tables."""


@dataclass(frozen=True)
class RunRecord:
    """Where a run stood and what its data and numbers came from.

    epoch: the one it stood in, from 1; batches_done: of that epoch, in each process. batches_per_epoch: of all processes together.
    dataset_seed: what the order of the data comes from. losses: memory of the loss average. options: those that decide what is learned.
    memory: what parts of the run remember, by their names: counters, statistics, results; plain values.
    epoch_ended: whether what follows the last batch of an epoch was done too. saved_at: seconds since 1970, 0 in older states.
    """

    seed: int
    dataset_seed: int
    epoch: int
    batches_done: int
    global_step: int
    batches_per_epoch: int
    updates_per_epoch: int
    processes: int
    model: str
    optimizer: str
    losses: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    epoch_ended: bool = True
    saved_at: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class TrainingState:
    """The tensors by name and the state_dicts; scheduler and scaler are None where a run has none."""

    network: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    scheduler: Mapping[str, Any] | None
    scaler: Mapping[str, Any] | None


def random_states_file(process: int) -> str:
    return f"random_states_{process}.pkl"


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


def check_whole(folder: Path) -> None:
    """Raises ValueError for a folder that lacks a file no state can do without, or has one that was cut short. Reads no tensors."""
    missing = [path.name for path in (network_file(folder), folder / OPTIMIZER) if not path.is_file()]
    if missing:
        raise ValueError(f"this is no whole state, it has no {' and no '.join(missing)}")
    if network_file(folder).name == NETWORK:
        read_metadata(folder / NETWORK)
    for path in sorted(path for ending in ("*.bin", "*.pkl", "*.pt") for path in folder.glob(ending)):
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{path} is not a whole torch file: copy the state again")


def network_file(folder: Path) -> Path:
    """Where the network stands in a state; the file need not be there."""
    old = folder / OLD_NETWORK
    return old if old.is_file() and not (folder / NETWORK).is_file() else folder / NETWORK


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


def read_current_step(folder: Path) -> int | None:
    """Optimizer steps done, None without a train_state.json."""
    content = _read_json(folder / POSITION)
    if content is None:
        return None
    step = content.get("current_step")
    if not isinstance(step, int) or step < 0:
        raise ValueError(f"{folder / POSITION} does not tell the steps done: current_step is {step!r}")
    return step


def read_record(folder: Path) -> RunRecord | None:
    """Our run.json; None in states of other programs. Raises ValueError for one of another version."""
    content = _read_json(folder / RUN)
    if content is None:
        return None
    if content.pop("format", None) != FORMAT:
        raise ValueError(f"{folder / RUN} is of another version: without that file the state is taken like one of sd-scripts")
    try:
        record = RunRecord(**content)
        for one in fields(record):
            kind = PLAIN.get(one.type, Mapping)
            if not isinstance(getattr(record, one.name), kind):
                raise TypeError(f"{one.name} is {getattr(record, one.name)!r}")
        return record
    except TypeError as fault:
        raise ValueError(f"{folder / RUN} is damaged ({fault}): without that file the state is taken like one of sd-scripts") from fault


def _read_if_there(path: Path) -> Any | None:
    return load_pickled(path, NUMPY_GLOBALS) if path.is_file() else None


def _without_wrapper(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """States of several GPUs carry the wrapper's name before every tensor's."""
    if tensors and all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as fault:
        raise ValueError(f"{path} is not whole ({fault}): copy the state again") from fault
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold a table: copy the state again")
    return content
