"""The moving average behind `loss/average`: the mean over the last full epoch's worth of micro steps."""

from collections.abc import Mapping
from typing import Any


class LossAverage:
    """Losses by their place in the epoch: the first epoch appends, later ones replace what stood at the same place.

    A loss that is not finite is left out, so one bad batch does not spoil the average for ever.
    """

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._total = 0.0

    def add(self, *, epoch: int, place: int, loss: float) -> None:
        """epoch: counted from 0. place: index of the micro step within its epoch."""
        if loss != loss or loss in (float("inf"), float("-inf")):
            return
        if epoch == 0:
            self._losses.append(loss)
        else:
            self._losses.extend([0.0] * (place + 1 - len(self._losses)))
            self._total -= self._losses[place]
            self._losses[place] = loss
        self._total += loss

    @property
    def average(self) -> float:
        """0 before the first loss."""
        return self._total / len(self._losses) if self._losses else 0.0

    def state(self) -> dict[str, Any]:
        """What `of` makes the same average from; plain numbers."""
        return {"losses": list(self._losses), "total": self._total}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "LossAverage":
        """The average that `state` was taken from."""
        average = cls()
        average._losses, average._total = list(state["losses"]), float(state["total"])
        return average
