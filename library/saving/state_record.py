"""The folder of a saved training state, as far as it is read without torch: its files, where the run stood, whether it is whole.

The layout stands in library.saving.state.
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from library.saving.header import read_metadata

NETWORK, OPTIMIZER, SCHEDULER, SCALER = "model.safetensors", "optimizer.bin", "scheduler.bin", "scaler.pt"
POSITION, RUN = "train_state.json", "run.json"
OLD_NETWORK = "pytorch_model.bin"
"""The network in states of accelerate before 0.23."""
FORMAT = 1
"""Of run.json; another number is not read."""

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


def random_states_file(process: int) -> str:
    return f"random_states_{process}.pkl"


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
