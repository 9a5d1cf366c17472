"""Names of what a run saves, when a save is due, and which older one goes. Pure arithmetic: no files are touched.

Epochs and steps count from 1. A name here has no ending: .safetensors (or .ckpt, .pt) follows for a network, `-state` for a state folder.
"""

import re

STATE_ENDING = "-state"


def epoch_name(output_name: str | None, epoch: int) -> str:
    """`lora-000002`; `epoch-000002` without an --output_name."""
    return f"{output_name or 'epoch'}-{epoch:06d}"


def step_name(output_name: str | None, global_step: int) -> str:
    """`lora-step00000012`; `at-step00000012` without an --output_name."""
    return f"{output_name or 'at'}-step{global_step:08d}"


def final_name(output_name: str | None) -> str:
    """`lora`; `last` without an --output_name."""
    return output_name or "last"


def state_name(name: str) -> str:
    """The folder of the training state saved together with `name`."""
    return name + STATE_ENDING


def is_of_run(name: str, output_name: str | None) -> bool:
    """Whether a run of this --output_name would write a file or state folder of this name, whatever its ending."""
    final, epoch, step = (re.escape(stem) for stem in (final_name(output_name), output_name or "epoch", output_name or "at"))
    return re.fullmatch(rf"(?:{final}|{epoch}-\d{{6}}|{step}-step\d{{8}})(?:{STATE_ENDING}|\.\w+)", name) is not None


def epoch_save_due(epoch: int, every: int | None, num_epochs: int) -> bool:
    """Every n epochs, but never at the last one, which is saved under the final name."""
    return bool(every) and epoch % every == 0 and epoch < num_epochs


def step_save_due(global_step: int, every: int | None) -> bool:
    """Every n optimizer steps, the last one too."""
    return bool(every) and global_step % every == 0


def epochs_between_saves(num_epochs: int, save_n_epoch_ratio: int) -> int:
    """The interval that gives at least `save_n_epoch_ratio` saves in a run."""
    return num_epochs // save_n_epoch_ratio or 1


def epoch_to_remove(epoch: int, every: int, save_last_n_epochs: int) -> int | None:
    """The epoch whose save goes now that `epoch` is saved: with 1 kept, the one before. None: nothing yet. 0 counts as 1."""
    old = epoch - every * max(save_last_n_epochs, 1)
    return old if old > 0 else None


def step_to_remove(global_step: int, every: int, save_last_n_steps: int) -> int | None:
    """The step whose save goes now that `global_step` is saved: the newest older than `save_last_n_steps` steps.

    A save exactly that old stays. None: nothing yet.
    """
    old = global_step - save_last_n_steps - 1
    old -= old % every
    return old if old > 0 else None
