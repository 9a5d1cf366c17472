"""Gathers the training state of a run and writes it as one folder, whole or not at all."""

import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch import nn

from library.files import abandon_folder, begin_folder, finish_folder, room_left, unfinished_folder
from library.models.family import Family
from library.saving.state import TrainingState, write_random_states, write_state
from library.saving.state_record import RunRecord
from library.training.datasets import RunData
from library.training.deciding_options import deciding_options
from library.training.guard import weights_are_finite
from library.training.loss_average import LossAverage
from library.training.optimization import Optimization
from library.training.plan import Plan
from library.training.positions import Position
from library.training.random_states import random_states
from library.training.run_memory import RunMemory
from library.training.saving_points import NotSaved


def state_writer(
    args: Namespace,
    seed: int,
    family: Family,
    data: RunData,
    plan: Plan,
    network: nn.Module,
    optimizing: Optimization,
    accelerator: Accelerator,
    memory: RunMemory,
) -> Callable[[Path, Position, LossAverage], None]:
    """The function that writes a state; to be called in all processes, which all get NotSaved if one of them cannot write.

    With strict_compat nothing is written that sd-scripts does not.
    """

    def record(position: Position, losses: LossAverage, remembered: dict[str, dict[str, Any]]) -> RunRecord:
        return RunRecord(
            seed=seed,
            dataset_seed=data.dataset_seed,
            epoch=position.epoch,
            batches_done=position.batches_done,
            global_step=position.global_step,
            batches_per_epoch=plan.batches_per_epoch,
            updates_per_epoch=plan.updates_per_epoch,
            processes=accelerator.num_processes,
            model=family.base_model_version,
            optimizer=optimizing.built.class_name,
            losses=losses.state(),
            options=deciding_options(args),
            memory=remembered,
            epoch_ended=position.ended,
            saved_at=time.time(),
        )

    def fill(folder: Path, position: Position, losses: LossAverage, remembered: dict[str, dict[str, Any]]) -> None:
        write_random_states(folder, accelerator.process_index, random_states())
        if accelerator.is_main_process:
            whole = gathered(network, optimizing, accelerator)
            ours = None if args.strict_compat else record(position, losses, remembered)
            write_state(folder, whole, epoch=position.epoch, global_step=position.global_step, record=ours)

    def write(folder: Path, position: Position, losses: LossAverage) -> None:
        remembered = memory.state()  # first of all, as the guard may yet take weights back
        if not weights_are_finite(network):
            raise NotSaved(f"{folder} is not written: the weights hold NaN or infinite values")
        main = accelerator.is_main_process
        _together(folder, main, lambda: begin_folder(folder) if main else None)
        _together(folder, main, lambda: fill(unfinished_folder(folder), position, losses, remembered))
        _together(folder, main, lambda: finish_folder(folder) if main else None)

    return write


def _together(folder: Path, main: bool, action: Callable[[], object]) -> None:
    """Runs `action` in each process and waits for all. If one cannot write, all raise NotSaved and nothing of the folder stays."""
    fault = None
    try:
        action()
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError is torch.save's on a full disk
        fault = str(error)
    faults = [told for told in gather_object([fault]) if told]
    if faults:
        if main:
            abandon_folder(folder)
        raise NotSaved(f"{folder} could not be written: {faults[0]}; {room_left(folder.parent)}")


def gathered(network: nn.Module, optimizing: Optimization, accelerator: Accelerator) -> TrainingState:
    """What the objects of a run hold at this moment."""
    has_state = hasattr(optimizing.lr_scheduler, "state_dict")
    return TrainingState(
        network=network.state_dict(),
        optimizer=optimizing.built.optimizer.state_dict(),
        scheduler=optimizing.lr_scheduler.state_dict() if has_state else None,
        scaler=accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
    )
