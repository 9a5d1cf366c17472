"""Keeps values that are not finite out of the weights, and says where they came from (`--nan_guard`).

An update whose loss or gradient is NaN or infinite is not made. Where the optimizer can leave a step out on the device (torch's fused
ones and ours), nothing is read before the next update; others need one read before each. With a gradient scaler, which leaves steps out
by itself, the verdict is read once the update is queued.
"""

import logging
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from library.optim.multi_tensor import HALF, MultiTensorStep
from library.training.host_copies import HostCopy
from library.training.snapshots import Snapshot
from library.training.step import MicroStep

logger = logging.getLogger(__name__)

OFF, SKIP, STOP, ROLLBACK = "off", "skip", "stop", "rollback"
SNAPSHOT_EVERY = 100  # updates
TOLD_IMAGES = 4


class TrainingRuined(ValueError):
    """Training cannot go on to any use. What was saved before is whole."""


@dataclass(frozen=True)
class GuardSettings:
    """mode: one of off, skip, stop, rollback. patience: bad updates in a row until `stop` and `rollback` act."""

    mode: str = SKIP
    patience: int = 5


@dataclass
class _Verdict:
    """What one update was judged by. flags: (gradient bad, loss bad, latents bad)."""

    global_step: int
    flags: HostCopy
    norms: Tensor
    parameters: Sequence[nn.Parameter]
    steps: list[MicroStep] = field(default_factory=list)


class NanGuard:
    """Judges every update before it is made. `lr_scheduler` loses half its rate at a rollback."""

    def __init__(
        self,
        settings: GuardSettings,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler,
        scaler=None,
        anywhere: Callable[[Tensor], Tensor] = lambda flags: flags,
    ):
        """scaler: the gradient scaler of fp16 training, which leaves updates out by itself while it looks for its scale.

        anywhere: makes bools true that are true in any process, so that all processes judge alike and their weights stay the same.
        """
        self.settings = settings
        self._network = network
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        self._scaler = scaler
        self._anywhere = anywhere
        if scaler is not None and isinstance(optimizer, MultiTensorStep):
            optimizer._step_supports_amp_scaling = self.active and optimizer.leaves_out()
        self._names = {id(parameter): name for name, parameter in network.named_parameters()}
        self._steps: list[MicroStep] = []
        self._pending: _Verdict | None = None
        self._snapshot: Snapshot | None = None
        self._global_step = 0
        self.in_a_row = 0
        self.skipped = 0
        self.rollbacks = 0

    @property
    def active(self) -> bool:
        return self.settings.mode != OFF

    def note(self, step: MicroStep) -> None:
        """Remembers the micro steps of the update to come, for the message."""
        if self.active:
            self._steps.append(step)

    def forbids(self, global_step: int, parameters: Sequence[nn.Parameter], norms: Tensor) -> bool:
        """Whether the update must not be made. norms: of each parameter's gradient, (n,), in the order of `parameters`.

        Where the optimizer or a gradient scaler leaves it out by itself the answer is always no; `settle` tells what went wrong, at the
        latest before the next update. Raises TrainingRuined when the settings say that training must end.
        """
        if not self.active:
            return False
        self._global_step = global_step
        if self._snapshot is None:
            self._snapshot = Snapshot(self._network, self._optimizer, global_step - 1)
        flags = self._anywhere(bad_flags(norms, self._steps))
        verdict = _Verdict(global_step, HostCopy(flags), norms, parameters, self._steps)
        self._steps = []
        if self._scaler is None and not skips_on_device(self._optimizer):
            return self._react(verdict)
        self.settle()
        bad = flags.any().to(torch.float32)
        if self._scaler is None:
            self._optimizer.found_inf, self._optimizer.grad_scale = bad, None
        else:  # it looks at the gradients alone; there is no public way to tell it of more
            for found in self._scaler._found_inf_per_device(self._optimizer).values():
                found.copy_(torch.maximum(found, bad))
        self._pending = verdict
        return False

    def settle(self) -> bool:
        """Reads the verdict of the last update and acts on it. Whether it was left out; False if that was told before."""
        pending, self._pending = self._pending, None
        if pending is None:
            return False
        ours = isinstance(self._optimizer, MultiTensorStep) and self._optimizer.leaves_out()
        if ours and pending.flags.read().any():
            self._optimizer.step_left_out()
        return self._react(pending)

    def finish(self) -> None:
        """To be called after the last update: tells what the whole run lost."""
        self.settle()
        if self.skipped:
            logger.warning("updates of this run left out because of NaN or infinite values, see above: %d", self.skipped)
        if self.rollbacks:
            logger.warning("learning rates were halved %d times: they ended at %g of those given", self.rollbacks, 0.5**self.rollbacks)

    def state(self) -> dict[str, Any]:
        """What `restore` goes on from, the last verdict included; to be called before weights are saved with it.

        From here on a rollback leads to this moment, here and in a run that goes on from the saved state alike.
        """
        self.settle()
        if self._snapshot is not None and weights_are_finite(self._network):
            self._snapshot = Snapshot(self._network, self._optimizer, self._global_step)
        return {"in_a_row": self.in_a_row, "skipped": self.skipped, "rollbacks": self.rollbacks}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The halved rates themselves lie in the states of optimizer and schedule."""
        self.in_a_row, self.skipped, self.rollbacks = (int(state[name]) for name in ("in_a_row", "skipped", "rollbacks"))

    def _react(self, verdict: _Verdict) -> bool:
        bad = verdict.flags.read().tolist()
        if not any(bad):
            self.in_a_row = 0
            if verdict.global_step % SNAPSHOT_EVERY == 0:
                self._snapshot = Snapshot(self._network, self._optimizer, verdict.global_step)
            return False
        if bad == [True, False, False] and self._scaler is not None:
            scale = self._scaler.get_scale() / self._scaler.get_backoff_factor()  # of this update; it is smaller already
            if scale > 1:
                logger.debug("step %d: left out, the fp16 gradient scale %g was too large", verdict.global_step, scale)
                return True
        self.in_a_row += 1
        self.skipped += 1
        logger.warning("%s", self._report(verdict, *bad))
        if not weights_are_finite(self._network):
            self._roll_back("the weights themselves held NaN or infinite values")
        elif self.in_a_row >= self.settings.patience:
            self._act_on_many()
        return True

    def _act_on_many(self) -> None:
        many = f"{self.in_a_row} updates in a row gave NaN or infinite values"
        if self.settings.mode == STOP:
            raise TrainingRuined(f"{many} (--nan_guard stop). The files saved before are whole. {ADVICE}")
        if self.settings.mode == ROLLBACK:
            self._roll_back(many)
        elif self.in_a_row % self.settings.patience == 0:
            logger.error("%s: nothing is learned any more, and the weights stay as they were. %s", many, ADVICE)

    def _roll_back(self, reason: str) -> None:
        self._snapshot.restore(self._optimizer)
        halve_rate(self._optimizer, self._lr_scheduler)
        self.in_a_row = 0
        self.rollbacks += 1
        logger.error(
            "%s: back to the weights and the optimizer state after step %d; learning rates are halved", reason, self._snapshot.global_step
        )

    def _report(self, verdict: _Verdict, gradient_bad: bool, loss_bad: bool, latents_bad: bool) -> str:
        what = [name for name, bad in (("latents", latents_bad), ("loss", loss_bad), ("gradient", gradient_bad)) if bad]
        lines = [f"step {verdict.global_step}: update left out, NaN or infinite values in {', '.join(what)}"]
        for step in verdict.steps:
            lines.append(f"  epoch {step.epoch}, timesteps {step.timesteps.tolist()}")
            pairs = list(zip(step.batch.image_keys, step.batch.captions, strict=False))
            lines += [f"    {key}: {caption}" for key, caption in pairs[:TOLD_IMAGES]]
        if gradient_bad:
            lines.append(f"  in the gradient of {self._first_modules(verdict)}")
        return "\n".join([*lines, "  " + ADVICE])

    def _first_modules(self, verdict: _Verdict) -> str:
        bad = (~torch.isfinite(verdict.norms)).nonzero().flatten().tolist()
        names = [self._names.get(id(verdict.parameters[index]), "?") for index in bad]
        return f"{len(names)} of {len(verdict.parameters)} tensors, first {names[0]}" if names else "their sum only: they are too large"


ADVICE = "To try: --no_half_vae (if latents are bad), a lower --learning_rate, --mixed_precision bf16 instead of fp16, --max_grad_norm 1"


def bad_flags(norms: Tensor, steps: Sequence[MicroStep]) -> Tensor:
    """(gradient bad, loss bad, latents bad), three bools on the device."""
    gradient = torch.linalg.vector_norm(norms).float()
    losses = [step.loss.detach().float() for step in steps] or [torch.zeros_like(gradient)]
    latents = [step.latents.sum(dtype=torch.float32) for step in steps] or [torch.zeros_like(gradient)]
    sums = torch.stack([gradient, *(reduce(operator.add, parts).to(gradient.device) for parts in (losses, latents))])
    return sums - sums != 0  # of NaN and of infinities the difference is NaN


def skips_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer leaves a step out where its `found_inf` is 1."""
    return optimizer.leaves_out() if isinstance(optimizer, MultiTensorStep) else is_fused(optimizer)


def is_fused(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it is one of torch's optimizers in the fused form, which goes by `found_inf`.

    Not SGD: a first step that is left out leaves its momentum to whatever was in that memory before.
    """
    return isinstance(optimizer, torch.optim.Adam | torch.optim.Adagrad) and all(
        group.get("fused") for group in optimizer.param_groups
    )


def halve_rate(optimizer: torch.optim.Optimizer, lr_scheduler) -> None:
    """Halves the rates of an optimizer and those its schedule starts from."""
    for group in optimizer.param_groups:
        for key in ("lr", "initial_lr"):
            if group.get(key) is not None:
                group[key] = group[key] * 0.5
    if hasattr(lr_scheduler, "base_lrs"):
        lr_scheduler.base_lrs = [rate * 0.5 for rate in lr_scheduler.base_lrs]


def gradient_norms(parameters: Iterable[nn.Parameter]) -> tuple[list[nn.Parameter], Tensor]:
    """The parameters that have a gradient, and each gradient's norm as one tensor (n,)."""
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    half = any(parameter.grad.dtype in HALF for parameter in trained)  # whose norm may be too large for it
    norms = torch._foreach_norm([parameter.grad for parameter in trained], 2, dtype=torch.float32 if half else None)
    return trained, torch.stack([norm.float() for norm in norms]) if norms else torch.zeros(0)


@torch.no_grad()
def clip(parameters: Sequence[nn.Parameter], norms: Tensor, limit: float) -> Tensor:
    """Scales all gradients so that their common norm is at most `limit`; returns the norm they had. No value is read by the host."""
    total = torch.linalg.vector_norm(norms)
    coefficient = torch.clamp(limit / (total + 1e-6), max=1.0)
    gradients = [parameter.grad for parameter in parameters]
    if gradients:
        torch._foreach_mul_(gradients, coefficient.to(gradients[0].device))
    return total


@torch.no_grad()
def weights_are_finite(network: nn.Module) -> bool:
    """Whether every value of every parameter is finite."""
    norms = torch._foreach_norm([parameter for parameter in network.parameters() if parameter.is_floating_point()], math.inf)
    return not norms or bool(torch.isfinite(torch.stack([norm.float() for norm in norms])).all())
