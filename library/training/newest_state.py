"""Finds the state that `--resume newest` goes on from, so that nobody has to look for it after a power cut."""

import logging
from pathlib import Path

from library.files import WAITING
from library.saving import state_record
from library.saving.file_names import STATE_ENDING, is_of_run

logger = logging.getLogger(__name__)

NEWEST = "newest"


def newest_state(output_dir: Path, output_name: str | None) -> Path | None:
    """The whole state in `output_dir` that a run of this name saved last; None, and a message, if there is none.

    Damaged ones are named and passed over. A state whose saving was cut off just before it got its name counts as well.
    """
    found = [path for path in output_dir.glob(f"*{STATE_ENDING}") if path.is_dir() and is_of_run(path.name, output_name)]
    waiting = output_dir.glob(f".*{STATE_ENDING}{WAITING}")
    found += [path for path in waiting if is_of_run(path.name[1 : -len(WAITING)], output_name)]
    ages = {}
    for path in found:
        try:
            state_record.check_whole(path)
            ages[path] = _age(path)
        except (ValueError, OSError) as fault:
            logger.warning("--resume newest: %s is passed over: %s", path, fault)
    if not ages:
        logger.warning("--resume newest: there is no whole state of this run in %s, so it begins at step 0", output_dir)
        return None
    newest = max(ages, key=ages.__getitem__)
    logger.info("--resume newest: going on from %s", newest)
    return newest


def _age(folder: Path) -> tuple[float, int]:
    """What grows with the time of saving: states of other programs tell it by their files only."""
    record, step = state_record.read_record(folder), state_record.read_current_step(folder) or 0
    if record is not None and record.saved_at:
        return record.saved_at, step
    return (folder / state_record.OPTIMIZER).stat().st_mtime, step
