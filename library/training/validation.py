"""The loss on images held out of training, measured between steps without disturbing them.

Each image is measured at four fixed timesteps. By default its noise is fixed too (common random numbers): two measurements
differ by what was learned in between and by nothing else. With strict_compat the procedure is sd-scripts': noise comes from
one seeded generator in the order of the batches.
"""

import logging
import math
import random
import zlib
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from library.console import progress_bar
from library.data.batch import Batch
from library.data.loader import BatchLoader
from library.diffusion.noise import draw_noise, perturb
from library.training import step as steps
from library.training.loss_average import LossAverage
from library.training.sharding import whole
from library.training.step import MicroStep, StepParts, StepSettings
from library.training.trackers import Reporter
from library.training.undisturbed import in_eval_mode, unchanged_random_states

logger = logging.getLogger(__name__)

TIMESTEPS = 4


@dataclass(frozen=True)
class ValidationSettings:
    """The --validat* options. every_n_epochs: None is each epoch. seed: of the noise. max_steps: batches used, None is all."""

    seed: int
    every_n_steps: int | None = None
    every_n_epochs: int | None = None
    max_steps: int | None = None
    strict_compat: bool = False


@dataclass(frozen=True)
class Measured:
    """One validation. epoch: 1-based, the one that was going on or had just ended."""

    loss: float
    epoch: int
    global_step: int


def build_validation(
    args: Namespace, loader: BatchLoader | None, parts: StepParts, step_settings: StepSettings, seed: int, accelerator: Accelerator
) -> "Validation":
    """loader: of the held-out images, None if there are none. seed: the run's, for where --validation_seed is not given."""
    if loader is None and (args.validate_every_n_steps or args.validate_every_n_epochs):
        logger.warning("no images are held out, so nothing is validated: hold some out with --validation_split 0.1")
    settings = ValidationSettings(
        seed=seed if args.validation_seed is None else args.validation_seed,
        every_n_steps=args.validate_every_n_steps,
        every_n_epochs=args.validate_every_n_epochs,
        max_steps=args.max_validation_steps,
        strict_compat=args.strict_compat,
    )
    return Validation(loader, settings, parts, replace(step_settings, train_text_encoder=False), accelerator)


@dataclass
class Validation:
    """Measures when it is time to, and remembers what it measured. Watchers see each MicroStep with strict_compat."""

    loader: BatchLoader | None
    settings: ValidationSettings
    parts: StepParts
    step_settings: StepSettings
    accelerator: Accelerator
    results: list[Measured] = field(default_factory=list)
    watchers: list[Callable[[MicroStep], None]] = field(default_factory=list)
    _averages: Mapping[str, LossAverage] = field(default_factory=lambda: {"step": LossAverage(), "epoch": LossAverage()})

    def due(self, global_step: int) -> bool:
        """Whether `after_step` has something to measure."""
        every = self.settings.every_n_steps
        return self.loader is not None and every is not None and global_step % every == 0

    def after_step(self, reporter: Reporter, *, epoch: int, global_step: int) -> None:
        """epoch: the one that is going on, 1-based."""
        if self.due(global_step):
            self._measure("step", reporter, tracker_step=global_step, epoch=epoch, global_step=global_step)

    def after_epoch(self, reporter: Reporter, *, epoch: int, global_step: int) -> None:
        """epoch: the one that has ended, 1-based."""
        if epoch % (self.settings.every_n_epochs or 1) == 0:
            self._measure("epoch", reporter, tracker_step=epoch, epoch=epoch, global_step=global_step)

    def tell_best(self, saved: Mapping[int, Path]) -> None:
        """Says when the loss was lowest, and which saved file is that; saved: global step -> file."""
        told = [result for result in self.results if math.isfinite(result.loss)]
        if not told or not self.accelerator.is_main_process:
            return
        best = min(told, key=lambda result: result.loss)
        kept = [result for result in told if result.global_step in saved]
        best_kept = min(kept, key=lambda result: result.loss, default=None)
        message = f"lowest validation loss {best.loss:.4g} at epoch {best.epoch}, step {best.global_step}"
        if best_kept is None:
            logger.info("%s, where nothing was saved", message)
        elif best_kept.global_step == best.global_step:
            logger.info("%s: %s", message, saved[best.global_step].name)
        else:
            logger.info(
                "%s, where nothing was saved; of the saved files %s has the lowest, %.4g",
                message, saved[best_kept.global_step].name, best_kept.loss,
            )  # fmt: skip

    def state(self) -> dict[str, Any]:
        """What `restore` goes on from; plain numbers."""
        return {"results": [asdict(result) for result in self.results]}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.results = [Measured(**result) for result in state["results"]]

    def _measure(self, kind: str, reporter: Reporter, *, tracker_step: int, epoch: int, global_step: int) -> None:
        """kind: "step" or "epoch", which names the log's tags."""
        if self.loader is None:
            return
        known = self.results[-1] if self.results and not self.settings.strict_compat else None
        if known is not None and known.global_step == global_step:
            loss = known.loss  # measured after the last step of this epoch already
        else:
            with self._undisturbed(), whole(self.parts.models.unet):
                torch.manual_seed(self.settings.seed)
                random.seed(self.settings.seed)
                loss = self._reference_loss(self._averages[kind], epoch) if self.settings.strict_compat else self._mean_loss()
            self.results.append(Measured(loss, epoch, global_step))
            if self.accelerator.is_main_process:
                logger.info("validation loss %.4g at epoch %d, step %d", loss, epoch, global_step)
        reporter.flush()
        values = {
            f"loss/validation/{kind}_average": loss,
            f"loss/validation/{kind}_divergence": loss - reporter.losses.average,
        }
        reporter.log(values, tracker_step, global_step, epoch)

    def _reference_loss(self, average: LossAverage, epoch: int) -> float:
        """sd-scripts' figure: a mean over this measurement, but in the first epoch over all measurements so far.

        Each timestep is a whole micro step of its own, which encodes and draws anew.
        """
        for number, batch in enumerate(self._batches(epoch)):
            for place, timestep in enumerate(self._timesteps()):
                noise = replace(self.step_settings.noise, min_timestep=timestep, max_timestep=timestep)
                loss, step = steps.training_loss(batch, self.parts, replace(self.step_settings, noise=noise))
                for watcher in self.watchers:
                    watcher(step)
                average.add(epoch=epoch - 1, place=number * TIMESTEPS + place, loss=float(loss))
        return average.average

    def image_losses(self) -> dict[tuple[int, str], float]:
        """(data set, image key) -> its loss now, the mean over the timesteps; of this process's share. Training is not disturbed."""
        with self._undisturbed():
            return self._own_losses()

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        with unchanged_random_states(self.accelerator.device), in_eval_mode(self.parts.network), torch.no_grad():
            yield

    def _own_losses(self) -> dict[tuple[int, str], float]:
        losses: dict[tuple[int, str], Tensor] = {}
        for batch in self._batches(epoch=1):
            keys = [(batch.dataset_index, key) for key in batch.image_keys]
            losses |= dict(zip(keys, self._image_losses(batch), strict=True))
        return dict(zip(losses, torch.stack(list(losses.values())).tolist() if losses else [], strict=True))

    def _mean_loss(self) -> float:
        """The mean over images, each counted once however the processes share them, and over timesteps. NaN without any image."""
        everyone = list(dict(gather_object(list(self._own_losses().items()))).values())
        return sum(everyone) / len(everyone) if everyone else math.nan

    def _image_losses(self, batch: Batch) -> Tensor:
        """(B,), each the mean over the timesteps. What is drawn for an image depends on its file name and the seed alone."""
        seeds = [zlib.crc32(f"{self.settings.seed} {Path(key).name}".encode()) for key in batch.image_keys]
        latents = self._latents(batch, seeds)
        text_states = steps.encode_captions(batch, self.parts, self.step_settings)
        losses = []
        for timestep in self._timesteps():
            noise, perturbed = self._noise(latents, [seed + timestep for seed in seeds])
            timesteps = torch.full((len(latents),), timestep, device=latents.device)
            noisy = self.parts.objective.add_noise(latents, perturbed, timesteps)
            noised = steps.Noised(latents, noise, noisy, timesteps)
            losses.append(steps.sample_losses(noised, text_states, batch, self.parts, self.step_settings))
        return torch.stack(losses).mean(dim=0)

    def _latents(self, batch: Batch, seeds: list[int]) -> Tensor:
        """Scaled latents; those not cached are drawn image by image."""
        if batch.latents is not None:
            return steps.scaled_latents(batch, self.parts, self.step_settings)[0]
        found = []
        for image, seed in zip(batch.images.split(1), seeds, strict=True):
            torch.manual_seed(seed)
            found.append(steps.scaled_latents(replace(batch, images=image), self.parts, self.step_settings)[0])
        return torch.cat(found)

    def _noise(self, latents: Tensor, seeds: list[int]) -> tuple[Tensor, Tensor]:
        """Noise, and noise with input perturbation, of the kind that is trained with, from one seed for each image."""
        noise, perturbed = [], []
        for image, seed in zip(latents.split(1), seeds, strict=True):
            torch.manual_seed(seed)
            noise.append(draw_noise(image, self.step_settings.noise, random.Random(seed)))
            perturbed.append(perturb(noise[-1], image, self.step_settings.noise))
        return torch.cat(noise), torch.cat(perturbed)

    def _timesteps(self) -> list[int]:
        """Four, evenly inside the range that is trained: 200, 400, 600, 800 of all 1000."""
        low = self.step_settings.noise.min_timestep or 0
        high = self.step_settings.noise.max_timestep or self.parts.objective.train_timesteps
        return [int(timestep) for timestep in np.linspace(low, high, TIMESTEPS + 2, dtype=int)[1:-1]]

    def _batches(self, epoch: int) -> Iterator[Batch]:
        batches = islice(self.loader.epoch(epoch), self.settings.max_steps)
        total = min(len(self.loader), self.settings.max_steps or len(self.loader))
        silent = not self.accelerator.is_local_main_process
        for batch in progress_bar(batches, total=total, desc="validation", leave=False, disable=silent):
            yield batch.to(self.accelerator.device, non_blocking=True)
