"""Whether a saved state fits a run: what differs is named, with the way out, before anything is loaded or at least before it is changed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from library.optim.optimizers import BuiltOptimizer
from library.saving.state_record import RunRecord, network_file

VERSION_KEYS = {
    "params", "initial_lr", "foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay", "train_mode",
}  # fmt: skip
"""Settings of an optimizer's groups that come and go with torch's version or with the moment."""
SCHEDULE_VERSION_KEYS = {"_is_initial", "_get_lr_called_within_step", "_step_count", "verbose"}


def check_record(record: RunRecord, model: str, optimizer: str, changed: Sequence[str], folder: Path) -> None:
    """What our own record tells before anything is loaded. Raises ValueError for another kind of model, of network or of optimizer.

    model, optimizer: those of this run, as records name them. changed: options that differ from the saved run's.
    """
    if record.model != model:
        raise ValueError(f"it is the state of a LoRA for {record.model}, this run trains one for {model}: give that kind of base model")
    others = [line for line in changed if line.startswith(("network_module:", "network_dim:"))]
    if others and not any(line.startswith("network_args:") for line in changed):
        raise ValueError(f"its network is another one ({'; '.join(others)}): give the options as saved{_way_out(folder)}")
    if record.optimizer != optimizer:
        both = f"it was saved with the optimizer {record.optimizer}, this run has {optimizer}"
        raise ValueError(f"{both}: give --optimizer_type as saved{_way_out(folder)}")


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
        raise ValueError("its network is another one, " + " and ".join(filter(None, (lacks, more))) + as_saved + _way_out(folder))
    for name, tensor in own.items():
        if tensor.shape != saved[name].shape:
            shapes = f"{name} is {_shape(saved[name])} there and {_shape(tensor)} here"
            raise ValueError(f"its network has other ranks: {shapes}" + as_saved + _way_out(folder))


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
            + _way_out(folder)
        )
    for group, own_group in zip(groups, own, strict=True):
        other = set(own_group) - set(group) - VERSION_KEYS
        if not same_class and "d" not in own_group:
            other |= set(group) - set(own_group) - VERSION_KEYS
        if other:
            raise ValueError(
                f"its optimizer is another one than {built.class_name}: only one of them has {', '.join(sorted(other))}; "
                f"give --optimizer_type as saved{_way_out(folder)}"
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


def _way_out(folder: Path) -> str:
    return f". Or begin a new run from its weights: --network_weights {network_file(folder)}, without --resume"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"
