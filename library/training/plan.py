"""How many steps and epochs a run has. Pure arithmetic."""

from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True)
class Plan:
    """batches_per_epoch: of all processes together. total_steps: optimizer updates. save_every_n_epochs: by option or ratio."""

    batches_per_epoch: int
    updates_per_epoch: int
    total_steps: int
    num_epochs: int
    save_every_n_epochs: int | None


def plan_training(
    *,
    batches_per_epoch: int,
    processes: int,
    accumulation: int,
    max_train_steps: int,
    max_train_epochs: int | None,
    save_every_n_epochs: int | None,
    save_n_epoch_ratio: int | None,
) -> Plan:
    """--max_train_epochs beats --max_train_steps; --save_n_epoch_ratio beats --save_every_n_epochs.

    The last micro step of an epoch always updates, so an epoch has ceil(batches per process / accumulation) updates.
    """
    updates_per_epoch = ceil(ceil(batches_per_epoch / processes) / accumulation)
    total_steps = max_train_steps
    if max_train_epochs is not None:
        total_steps = max_train_epochs * ceil(batches_per_epoch / processes / accumulation)
    num_epochs = ceil(total_steps / updates_per_epoch)
    if save_n_epoch_ratio is not None and save_n_epoch_ratio > 0:
        save_every_n_epochs = num_epochs // save_n_epoch_ratio or 1
    return Plan(batches_per_epoch, updates_per_epoch, total_steps, num_epochs, save_every_n_epochs)
