"""Notices when a rate-finding optimizer (D-Adaptation, Prodigy) has settled while the schedule lifts the rate again.

Such an optimizer multiplies its own estimate d by the rate of the schedule. d never falls, and seldom grows after the first part of
a run, so a restart of the schedule begins with the d of long ago. That is worth knowing, and worth one line in a run.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from library.training.host_copies import HostCopy

GROWTH = 1.01  # d has grown when it is more than this times what it was
RECOVERY = 1.5  # the schedule recovers when its rate is this many times its lowest since d has stood still


class SettledRate:
    """patience: optimizer steps without growth after which d counts as settled."""

    def __init__(self, patience: int):
        self.patience = patience
        self._d = 0.0
        self._steps = 0
        self._lowest = float("inf")
        self._told = False
        self._waiting: tuple[HostCopy, float] | None = None
        self._text: str | None = None

    def state(self) -> dict[str, Any]:
        """What `restore` goes on from; plain numbers."""
        self._judge_waiting()
        return {"d": self._d, "steps": self._steps, "lowest": self._lowest, "told": self._told}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._d, self._steps, self._lowest, self._told = (state[name] for name in ("d", "steps", "lowest", "told"))

    def notice(self, d: float | Tensor, rate: float) -> str | None:
        """To be called after each optimizer step with its d and the schedule's rate; the text to show, once in a run.

        A d is judged when the next one comes, so that nobody waits for one that is still on its way from the GPU.
        """
        self._judge_waiting()
        self._waiting = (HostCopy(torch.as_tensor(d, dtype=torch.float64)), rate)
        text, self._text = self._text, None
        return text

    def _judge_waiting(self) -> None:
        if self._waiting is not None:
            (d, rate), self._waiting = self._waiting, None
            self._text = self._judge(float(d.read()), rate) or self._text

    def _judge(self, d: float, rate: float) -> str | None:
        if d > self._d * GROWTH:
            self._d, self._steps, self._lowest = d, 0, rate
            return None
        self._steps += 1
        self._lowest = min(self._lowest, rate)
        if self._told or self._steps < self.patience or rate < self._lowest * RECOVERY:
            return None
        self._told = True
        return (
            f"d has stood at {d:.3g} for {self._steps} steps while the schedule's rate rises again, to {rate:.3g}: "
            f"the coming steps learn at rate x d = {rate * d:.3g}, and no new estimate is to be expected. For a fresh start at each cycle "
            "use an optimizer with a rate of its own, such as AdamW; for even learning use --lr_scheduler constant or cosine"
        )
