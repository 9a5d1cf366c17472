"""Whether the tensors and the optimizer of a saved state fit a run: what differs is named, with the way out, before anything is changed."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from library.optim.optimizers import BuiltOptimizer, chosen_type, optimizer_class, recorded_name
from library.training.saved_run import SavedRun, way_out

VERSION_KEYS = {
    "params", "initial_lr", "foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay", "train_mode",
}  # fmt: skip
"""Settings of an optimizer's groups that come and go with torch's version or with the moment."""
SCHEDULE_VERSION_KEYS = {"_is_initial", "_get_lr_called_within_step", "_step_count", "verbose"}


def check_recorded_optimizer(saved: SavedRun | None, args: Namespace) -> None:
    """Raises ValueError if our record names another optimizer than the options."""
    if saved is None or saved.record is None:
        return
    own = recorded_name(optimizer_class(chosen_type(args.optimizer_type, args.use_8bit_adam, args.use_lion_optimizer)))
    if saved.record.optimizer != own:
        both = f"it was saved with the optimizer {saved.record.optimizer}, this run has {own}"
        raise ValueError(f"--resume {saved.folder}: {both}: give --optimizer_type as saved{way_out(saved.folder)}")


def check_network(saved: Mapping[str, Tensor], own: Mapping[str, Tensor], changed: Sequence[str], folder: Path) -> None:
    """Raises ValueError unless both have the same tensors in the same shapes. changed: options that differ from the saved run's."""
    hints = [line for line in changed if line.startswith("network_")]
    as_saved = ": give --network_module, --network_dim and --network_args as saved"
    if hints:
        as_saved = f": give as saved what differs, {'; '.join(hints)}"
    missing, surplus = [name for name in own if name not in saved], [name for name in saved if name not in own]
    if len(missing) == len(own):
        raise ValueError(
            f"it holds another network, or one for another kind of base model: {surplus[0] if surplus else 'nothing'} is in it, "
            f"{missing[0]} in this run" + as_saved
        )
    if missing or surplus:
        lacks = f"{len(missing)} tensors of this run are not in it (such as {missing[0]})" if missing else ""
        more = f"{len(surplus)} of its tensors have no place here (such as {surplus[0]})" if surplus else ""
        raise ValueError("its network is another one, " + " and ".join(filter(None, (lacks, more))) + as_saved + way_out(folder))
    for name, tensor in own.items():
        if tensor.shape != saved[name].shape:
            shapes = f"{name} is {_shape(saved[name])} there and {_shape(tensor)} here"
            raise ValueError(f"its network has other ranks: {shapes}" + as_saved + way_out(folder))


def check_optimizer(saved: Mapping[str, Any], built: BuiltOptimizer, folder: Path, *, same_class: bool) -> None:
    """Raises ValueError unless the state is of the same optimizer over the same groups of tensors.

    same_class: the state's record says so. Without one the names of the groups' settings tell; optimizers that find a rate d add some
    while they train.
    """
    groups, own = saved["param_groups"], built.optimizer.param_groups
    sizes, own_sizes = [len(group["params"]) for group in groups], [len(group["params"]) for group in own]
    if sizes != own_sizes:
        raise ValueError(
            f"its optimizer has {len(sizes)} groups of {sizes} tensors, this run {len(own_sizes)} of {own_sizes}: give what parts them as "
            "saved (--text_encoder_lr, --unet_lr, --network_train_unet_only, loraplus_* and *_lr_weight in --network_args)"
            + way_out(folder)
        )
    for group, own_group in zip(groups, own, strict=True):
        other = set(own_group) - set(group) - VERSION_KEYS
        if not same_class and "d" not in own_group:
            other |= set(group) - set(own_group) - VERSION_KEYS
        if other:
            raise ValueError(
                f"its optimizer is another one than {built.class_name}: only one of them has {', '.join(sorted(other))}; "
                f"give --optimizer_type as saved{way_out(folder)}"
            )


def check_schedule(saved: Mapping[str, Any] | None, lr_scheduler: object) -> None:
    """Raises ValueError for the state of another class of schedule; named schedules are all of one class."""
    if saved is None or not hasattr(lr_scheduler, "state_dict"):
        return
    other = (set(saved) ^ set(lr_scheduler.state_dict())) - SCHEDULE_VERSION_KEYS
    if other:
        raise ValueError(
            f"its learning-rate schedule is of another class: only one of them has {', '.join(sorted(other))}; give --lr_scheduler and "
            "--lr_scheduler_type as saved, or remove scheduler.bin to begin the schedule anew at the step of the state"
        )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"
