"""Notices a loss that stands far out from those before it, so that a damaged picture or caption can be found by its file."""

from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

MAD_TO_SIGMA = 1.4826  # median absolute deviation -> standard deviation of a normal distribution


class LossSpikes:
    """Compares each loss with the last `window` ones: a spike is more than `deviations` robust deviations above their median.

    Nothing is a spike before `warm_up` losses have been seen. Spikes do not enter the window, so one does not hide the next.
    """

    def __init__(self, deviations: float = 12.0, window: int = 200, warm_up: int = 50):
        self._deviations = deviations
        self._warm_up = warm_up
        self._losses: deque[float] = deque(maxlen=window)

    def height(self, loss: float) -> float | None:
        """How many robust deviations `loss`, a finite number, stands above the median; None if it is no spike."""
        if len(self._losses) >= self._warm_up:
            middle = median(self._losses)
            spread = MAD_TO_SIGMA * median(abs(one - middle) for one in self._losses)
            if spread > 0 and loss > middle + self._deviations * spread:
                return (loss - middle) / spread
        self._losses.append(loss)
        return None

    def state(self) -> dict[str, Any]:
        """What `restore` goes on from; plain numbers."""
        return {"losses": list(self._losses)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._losses = deque(state["losses"], maxlen=self._losses.maxlen)
