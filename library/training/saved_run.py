"""A training state that a run goes on from: found, opened and compared with the run, as far as that goes without torch."""

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from library.saving.hub_folder import HubFolder
from library.saving.state_record import OPTIMIZER, RunRecord, check_whole, network_file, read_current_step, read_record
from library.training.deciding_options import changed_options
from library.training.newest_state import NEWEST, newest_state


@dataclass(frozen=True)
class SavedRun:
    """A state folder, the optimizer steps it tells (None: it does not), and our record (None: another program's, or strict_compat)."""

    folder: Path
    current_step: int | None
    record: RunRecord | None

    @property
    def dataset_seed(self) -> int | None:
        """What the order of the data comes from; None leaves it to the new run."""
        return self.record.dataset_seed if self.record else None

    @property
    def steps_done(self) -> int | None:
        """Optimizer steps; None if nothing in the folder tells them."""
        return self.record.global_step if self.record else self.current_step


def opened_run(args: Namespace) -> SavedRun | None:
    """What --resume names, fetched from the hub if it lies there; None without it, and if nothing has been saved yet for `newest`.

    Raises ValueError for a folder that is no whole state.
    """
    folder = _folder(args)
    if folder is None:
        return None
    try:
        check_whole(folder)
        return SavedRun(folder, current_step=read_current_step(folder), record=None if args.strict_compat else read_record(folder))
    except ValueError as fault:
        raise ValueError(f"--resume {folder}: {fault}{_where_else(folder)}") from fault


def check_fits(saved: SavedRun | None, args: Namespace, model: str) -> None:
    """Raises ValueError for the state of another kind of base model or of network, as far as our record tells. model: this run's."""
    if saved is None or saved.record is None:
        return
    if saved.record.model != model:
        both = f"it is the state of a LoRA for {saved.record.model}, this run trains one for {model}"
        raise ValueError(f"--resume {saved.folder}: {both}: give that kind of base model")
    changed = changed_options(saved.record, args)
    others = [line for line in changed if line.startswith(("network_module:", "network_dim:"))]
    if others and not any(line.startswith("network_args:") for line in changed):
        both = f"its network is another one ({'; '.join(others)})"
        raise ValueError(f"--resume {saved.folder}: {both}: give the options as saved{way_out(saved.folder)}")


def check_unfinished(saved: SavedRun | None, args: Namespace) -> None:
    """Raises ValueError if the run has no steps left, where the options alone tell: a length in epochs depends on the images."""
    elsewhere = args.max_train_epochs is not None or args.initial_step is not None or args.initial_epoch is not None
    if saved is None or elsewhere or args.resume == NEWEST:
        return
    if (saved.steps_done or 0) >= args.max_train_steps:
        raise ValueError(nothing_left(args, "--resume", saved.steps_done, args.max_train_steps))


def nothing_left(args: Namespace, source: str, steps: int, total: int) -> str:
    """What to say when a run of `total` steps has no more to do. source: the option that says so, steps: those that count as done."""
    length = f"--max_train_steps {total}"
    if args.max_train_epochs is not None:
        length = f"--max_train_epochs {args.max_train_epochs} ({total} steps)"
    if source == "--resume":
        return f"--resume {args.resume}: this run is finished, {steps} steps are done and {length} asks for no more; give more to go on"
    given = f"{source} {getattr(args, source[2:])}"
    return f"{given} leaves nothing to train: {steps} steps count as done, and {length} asks for no more; begin earlier or train longer"


def way_out(folder: Path) -> str:
    """What to do with a state that does not fit."""
    return f". Or begin a new run from its weights: --network_weights {network_file(folder)}, without --resume"


def _folder(args: Namespace) -> Path | None:
    if not args.resume:
        return None
    if args.resume_from_huggingface:
        return HubFolder.of(args.resume).fetch(args.huggingface_token)
    return newest_state(Path(args.output_dir), args.output_name) if args.resume == NEWEST else Path(args.resume)


def _where_else(folder: Path) -> str:
    """What to do about a folder that is no state."""
    inside = sorted(path.name for path in folder.glob("*-state") if path.is_dir())
    if inside:
        return f"; name one of the states in it: {', '.join(inside)}"
    if not (folder / OPTIMIZER).is_file() and network_file(folder).is_file():
        return f"; copy it again, or begin anew from its weights with --network_weights {network_file(folder)}"
    if not (folder / OPTIMIZER).is_file():
        return "; give a folder that --save_state wrote, its name ends in -state"
    return ""
