"""When a run saves its network, under which name, and which older file goes."""

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError

from library.files import ANOTHER_RUNS, remove_leftovers, room_left
from library.saving import file_names
from library.saving.hub import HubUpload

logger = logging.getLogger(__name__)

UNWRITABLE = (OSError, SafetensorError)
"""What a full disk and a folder without write access raise."""


@dataclass(frozen=True)
class SaveSettings:
    """The --save_* options under their own names. extension: that of --save_model_as, with the dot."""

    output_dir: Path
    output_name: str | None
    extension: str
    save_every_n_epochs: int | None = None
    save_every_n_steps: int | None = None
    save_last_n_epochs: int | None = None
    save_last_n_steps: int | None = None


class NotSaved(ValueError):
    """A file could not be written, or must not be. What was saved before is whole."""


class SavePoints:
    """Saves after steps, after epochs and at the end. `write(path, epoch=..., global_step=...)` writes one file whole or not at all.

    enabled: false on all but the main process, where nothing is written. strict_compat: step saves name the epoch counted from 0,
    as the reference writes it. hub: gets each file as well. needed: bytes that one file takes, for messages.
    """

    def __init__(
        self,
        settings: SaveSettings,
        write: Callable[..., None],
        *,
        num_epochs: int,
        enabled: bool = True,
        strict_compat: bool = False,
        hub: HubUpload | None = None,
        needed: int = 0,
    ):
        self.settings = settings
        self._write = write
        self._num_epochs = num_epochs
        self._enabled = enabled
        self._hub = hub
        self._needed = needed
        self._step_save_epoch_offset = 1 if strict_compat else 0
        self.saved: dict[int, Path] = {}
        """Global step -> the newest file saved there, as long as it is kept."""

    def at_start(self) -> None:
        """Removes what a killed run of this name left half written."""
        if not self._enabled:
            return
        folder, name = self.settings.output_dir, self.settings.output_name
        removed = remove_leftovers(folder, lambda left: file_names.is_of_run(left, name))
        removed += remove_leftovers(folder / "sample", lambda left: True, older_than=ANOTHER_RUNS)
        if removed:
            logger.info("unfinished files of a run that was killed are removed from %s: %d", folder, removed)

    def due(self, global_step: int) -> bool:
        """Whether `after_step` has something to save."""
        return file_names.step_save_due(global_step, self.settings.save_every_n_steps)

    def after_step(self, global_step: int, epoch: int) -> None:
        """epoch: the one that is going on, 1-based."""
        settings = self.settings
        if not self.due(global_step):
            return
        saved = self._save(file_names.step_name(settings.output_name, global_step), epoch - self._step_save_epoch_offset, global_step)
        if saved and settings.save_last_n_steps is not None:
            old = file_names.step_to_remove(global_step, settings.save_every_n_steps, settings.save_last_n_steps)
            if old is not None:
                self._remove(file_names.step_name(settings.output_name, old))

    def after_epoch(self, epoch: int, global_step: int) -> None:
        """epoch: the one that has ended, 1-based. The last one is left to `at_end`."""
        settings = self.settings
        if not file_names.epoch_save_due(epoch, settings.save_every_n_epochs, self._num_epochs):
            return
        saved = self._save(file_names.epoch_name(settings.output_name, epoch), epoch, global_step)
        if saved and settings.save_last_n_epochs is not None:
            old = file_names.epoch_to_remove(epoch, settings.save_every_n_epochs, settings.save_last_n_epochs)
            if old is not None:
                self._remove(file_names.epoch_name(settings.output_name, old))

    def at_end(self, global_step: int) -> None:
        """Saves the finished network and says where it is, once all uploads are done.

        Raises NotSaved if that cannot be done; if the folder has no room, the network is in the system's folder for temporary files then.
        """
        path = self._path(file_names.final_name(self.settings.output_name))
        if self._enabled:
            try:
                self._write_whole(path, self._num_epochs, global_step)
            except NotSaved as fault:
                if not isinstance(fault.__cause__, UNWRITABLE):
                    raise
                raise NotSaved(f"{fault}{self._saved_elsewhere(path.name, global_step)}") from fault
            if self._hub is not None:
                self._hub.finish()
            logger.info("model saved: %s", path)

    def at_stop(self, global_step: int, epoch: int) -> None:
        """Saves the network of a run that ends early, with the step in its name. epoch: the one that is going on, 1-based."""
        self._save(file_names.step_name(self.settings.output_name, global_step), epoch, global_step)

    def state(self) -> dict[str, Any]:
        """What `restore` goes on from: the names of the files by their step."""
        return {"saved": {str(step): path.name for step, path in self.saved.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Files that are no longer there are forgotten."""
        paths = {int(step): self.settings.output_dir / name for step, name in state["saved"].items()}
        self.saved = {step: path for step, path in paths.items() if path.is_file()}

    def _path(self, stem: str) -> Path:
        return self.settings.output_dir / (stem + self.settings.extension)

    def _save(self, stem: str, epoch: int, global_step: int) -> bool:
        """Whether there is such a file now. A save that fails in the middle of a run is told, and the run goes on."""
        if not self._enabled:
            return False
        try:
            self._write_whole(self._path(stem), epoch, global_step)
        except NotSaved as fault:
            logger.error("%s. Earlier files stay; training goes on", fault)
            return False
        return True

    def _write_whole(self, path: Path, epoch: int, global_step: int) -> None:
        logger.info("saving checkpoint: %s", path)
        try:
            self._write(path, epoch=epoch, global_step=global_step)
        except UNWRITABLE as fault:
            raise NotSaved(f"{path} could not be written: {fault}; {room_left(path.parent, self._needed)}") from fault
        self.saved[global_step] = path
        if self._hub is not None:
            self._hub.file(path)

    def _saved_elsewhere(self, name: str, global_step: int) -> str:
        """Saves what would be lost where the system keeps temporary files, often on another disk: says where, "" if that fails too."""
        path = Path(tempfile.gettempdir()) / f"{Path(name).stem}-{uuid4().hex[:8]}{Path(name).suffix}"
        try:
            self._write(path, epoch=self._num_epochs, global_step=global_step)
        except UNWRITABLE:
            return ""
        return f". It is saved as {path} instead: move it to a folder of yours, temporary files may be deleted"

    def _remove(self, stem: str) -> None:
        path = self._path(stem)
        if path.exists():
            logger.info("removing old checkpoint: %s", path)
            path.unlink()
            self.saved = {step: kept for step, kept in self.saved.items() if kept != path}
