"""A training state that a run goes on from, as far as it is read without torch."""

from dataclasses import dataclass
from pathlib import Path

from library.saving.state_record import OPTIMIZER, RunRecord, check_whole, network_file, read_current_step, read_record


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


def opened(folder: Path, *, with_record: bool) -> SavedRun:
    """The state in `folder`; with_record: our own record too, if it has one. Raises ValueError for a folder that is no whole state."""
    try:
        check_whole(folder)
        return SavedRun(folder, current_step=read_current_step(folder), record=read_record(folder) if with_record else None)
    except ValueError as fault:
        raise ValueError(f"--resume {folder}: {fault}{_where_else(folder)}") from fault


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
