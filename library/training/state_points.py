"""When a run saves its training state, under which name, and which older state goes: with the network's saves, or at the end."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from library.files import remove_folder
from library.saving import file_names
from library.training.loss_average import LossAverage
from library.training.positions import Position
from library.training.saving_points import NotSaved, SaveSettings

logger = logging.getLogger(__name__)

Losses = Callable[[], LossAverage]
"""Gives the loss average once all losses of the run so far are in it; asked only when a state is due."""


@dataclass(frozen=True)
class StateSettings:
    """with_saves: --save_state. at_end: --save_state_on_train_end. last_n_*: how many of the older states stay, None all."""

    with_saves: bool = False
    at_end: bool = False
    last_n_epochs: int | None = None
    last_n_steps: int | None = None


class StatePoints:
    """`write(folder, position, losses)` writes one state, whole, and is called in all processes; main: this one removes old states.

    newest: the folder of the last state that this run saved. upload: gets each folder as well.
    """

    def __init__(
        self,
        saves: SaveSettings,
        states: StateSettings,
        write: Callable[..., None],
        *,
        num_epochs: int,
        main: bool = True,
        upload: Callable[[Path], None] | None = None,
    ):
        self._saves, self._states = saves, states
        self._write = write
        self._num_epochs = num_epochs
        self._main = main
        self._upload = upload
        self._asked = False
        self.newest: Path | None = None

    def ask(self) -> None:
        """Has a state saved after the coming update, whatever the options say. All processes must ask. Signal handlers may call it."""
        self._asked = True

    def after_step(self, position: Position, losses: Losses) -> None:
        """Goes with the network's save after a step, or follows `ask`."""
        name, every, step = self._saves.output_name, self._saves.save_every_n_steps, position.global_step
        due = self._states.with_saves and file_names.step_save_due(step, every)
        if not due and not self._asked:
            return
        self._asked = False
        saved = self._save(file_names.step_name(name, step), position, losses)
        if saved and due and self._states.last_n_steps is not None:
            old = file_names.step_to_remove(step, every, self._states.last_n_steps)
            if old is not None:
                self._remove(file_names.step_name(name, old))

    def after_epoch(self, position: Position, losses: Losses) -> None:
        """Goes with the network's save after an epoch; the last one is left to `at_end`."""
        name, every, epoch = self._saves.output_name, self._saves.save_every_n_epochs, position.epoch
        if not self._states.with_saves or not file_names.epoch_save_due(epoch, every, self._num_epochs):
            return
        saved = self._save(file_names.epoch_name(name, epoch), position, losses)
        if saved and self._states.last_n_epochs is not None:
            old = file_names.epoch_to_remove(epoch, every, self._states.last_n_epochs)
            if old is not None:
                self._remove(file_names.epoch_name(name, old))

    def at_end(self, position: Position, losses: Losses) -> None:
        """The state of the finished run."""
        if self._states.with_saves or self._states.at_end:
            self._save(file_names.final_name(self._saves.output_name), position, losses)

    def _save(self, stem: str, position: Position, losses: Losses) -> bool:
        """Whether it is saved. A save that fails is told, and the run goes on."""
        folder = self._folder(stem)
        if self._main:
            logger.info("saving state: %s", folder)
        try:
            self._write(folder, position, losses())
        except NotSaved as fault:
            logger.error("%s. Earlier states stay; the run goes on", fault)
            return False
        self.newest = folder
        if self._upload is not None:
            self._upload(folder)
        return True

    def _remove(self, stem: str) -> None:
        folder = self._folder(stem)
        if self._main and folder.exists():
            logger.info("removing old state: %s", folder)
            remove_folder(folder)

    def _folder(self, stem: str) -> Path:
        return self._saves.output_dir / file_names.state_name(stem)
