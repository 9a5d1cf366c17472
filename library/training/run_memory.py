"""What parts of a run remember beside weights, optimizer and random numbers, so that a run that goes on forgets nothing of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from library.saving.state_record import RunRecord
from library.training.guard import NanGuard
from library.training.loss_average import LossAverage
from library.training.loss_spikes import LossSpikes
from library.training.saving_points import SavePoints
from library.training.settled_rate import SettledRate
from library.training.validation import Validation


@dataclass
class RunMemory:
    """The parts that remember. Each has `state`, plain values that survive a JSON file, and `restore`, which takes them."""

    guard: NanGuard
    settled_rate: SettledRate | None
    validation: Validation
    saves: SavePoints
    losses: LossAverage = field(default_factory=LossAverage)
    spikes: LossSpikes = field(default_factory=LossSpikes)

    def state(self) -> dict[str, dict[str, Any]]:
        """What each part remembers, by its name; the loss average goes another way. The guard may take weights back here."""
        return {name: part.state() for name, part in self._parts().items()}

    def restore(self, record: RunRecord | None) -> None:
        """Gives each part what `record` has of it; older states have less, those of other programs nothing."""
        if record is None:
            return
        self.losses = LossAverage.of(record.losses)
        for name, part in self._parts().items():
            if name in record.memory:
                part.restore(record.memory[name])

    def _parts(self) -> Mapping[str, Any]:
        parts = {"guard": self.guard, "settled_rate": self.settled_rate, "validation": self.validation, "saves": self.saves}
        return {name: part for name, part in (parts | {"spikes": self.spikes}).items() if part is not None}
