"""Preview pictures: when they are drawn while training goes on, where they go, and what is written in them.

They are made from the weights as they would be saved now. Training is not disturbed: random states and modes are put back.
"""

import logging
import random
import time
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from torch import nn

from library.console import progress_bar
from library.files import room_left
from library.models.devices import clear_device_cache
from library.models.family import Family, Models
from library.models.samplers import SAMPLERS, make_sampler
from library.saving.pictures import parameters_text, write_png
from library.training.precision import DTYPES
from library.training.preview_painter import Painter
from library.training.preview_prompts import PreviewPrompt, draws_previews, read_preview_prompts
from library.training.sharding import whole
from library.training.undisturbed import in_eval_mode, unchanged_random_states

logger = logging.getLogger(__name__)

REFERENCE_SIZE = (512, 512)
SAMPLER_TITLES = {
    "ddim": "DDIM",
    "pndm": "PLMS",
    "lms": "LMS",
    "euler": "Euler",
    "euler_a": "Euler a",
    "dpmsolver": "DPM 2M",
    "dpmsolver++": "DPM++ 2M",
    "dpmsingle": "DPM++ 2S",
    "heun": "Heun",
    "dpm_2": "DPM2",
    "dpm_2_a": "DPM2 a",
}
"""Our samplers under the names that web UIs know."""


@dataclass(frozen=True)
class PreviewSettings:
    """folder: where pictures go. every_n_epochs beats every_n_steps. model_name: of the base model, for the pictures' text.

    in_train_mode: network dropout stays on, as in the reference.
    """

    folder: Path
    output_name: str | None
    model_name: str
    every_n_steps: int | None = None
    every_n_epochs: int | None = None
    at_first: bool = False
    in_train_mode: bool = False


@dataclass(frozen=True)
class Drawn:
    """A finished picture, as the other processes hear of it."""

    index: int
    path: Path
    prompt: str


def read_prompts(args: Namespace, family: Family) -> list[PreviewPrompt]:
    """The prompts of this run, [] if previews are off or the file holds none; mistakes are told before anything is loaded.

    Pictures have the size the model was made for; with strict_compat 512x512. Raises ValueError for mistakes in the file and
    for a sampler whose package is missing.
    """
    if not draws_previews(args):
        return []
    size = REFERENCE_SIZE if args.strict_compat else family.modelspec_facts().resolution
    prompts = read_preview_prompts(args.sample_prompts, default_size=size, samplers=list(SAMPLERS))
    if not prompts:
        logger.warning("--sample_prompts %s holds no prompts: no previews are drawn", args.sample_prompts)
    prompts = [replace(prompt, sampler=(prompt.sampler or args.sample_sampler).removeprefix("k_")) for prompt in prompts]
    for name in {prompt.sampler for prompt in prompts}:
        make_sampler(name, family.prediction_type)
    return prompts


def build_previews(
    args: Namespace, prompts: list[PreviewPrompt], family: Family, models: Models, network: nn.Module, accelerator: Accelerator
) -> "Previews":
    """The previews of a run, as its options want them. prompts: as from `read_prompts`."""
    settings = PreviewSettings(
        folder=Path(args.output_dir) / "sample",
        output_name=args.output_name,
        model_name=Path(args.pretrained_model_name_or_path).stem,
        every_n_steps=args.sample_every_n_steps,
        every_n_epochs=args.sample_every_n_epochs,
        at_first=args.sample_at_first,
        in_train_mode=args.strict_compat,
    )
    frozen = args.network_train_unet_only
    dtype = DTYPES[args.mixed_precision]
    painter = Painter(prompts, family, models, accelerator, weight_dtype=dtype, keeps_text_states=frozen)
    return Previews(prompts, settings, painter, [network, models.unet, *models.text_encoders], accelerator)


class Previews:
    """Draws all prompts when it is time to; each process draws its share. modules: those that are put in eval mode for it."""

    def __init__(
        self, prompts: list[PreviewPrompt], settings: PreviewSettings, painter: Painter, modules: list[nn.Module], accelerator: Accelerator
    ):
        self.prompts = prompts
        self.settings = settings
        self.painter = painter
        self.modules = modules
        self.accelerator = accelerator

    def at_start(self, global_step: int) -> None:
        """Before the first step, with --sample_at_first; a run that goes on from a later step has no such pictures."""
        if self.settings.at_first and global_step == 0:
            self._draw("e000000", epoch=0, global_step=0)

    def due(self, global_step: int) -> bool:
        """Whether `after_step` has something to draw."""
        every = self.settings.every_n_steps
        return bool(self.prompts) and self.settings.every_n_epochs is None and every is not None and global_step % every == 0

    def after_step(self, global_step: int, epoch: int) -> None:
        """epoch: the one that is going on, 1-based."""
        if self.due(global_step):
            self._draw(f"{global_step:06d}", epoch=epoch, global_step=global_step)

    def after_epoch(self, epoch: int, global_step: int) -> None:
        """epoch: the one that has ended, 1-based."""
        every = self.settings.every_n_epochs
        if every is not None and epoch % every == 0:
            self._draw(f"e{epoch:06d}", epoch=epoch, global_step=global_step)

    def _draw(self, mark: str, *, epoch: int, global_step: int) -> None:
        """mark: the part of the file names that tells when."""
        if not self.prompts:
            return
        if self.accelerator.is_main_process:
            logger.info("drawing %d previews at step %d into %s", len(self.prompts), global_step, self.settings.folder)
        share = self.prompts[self.accelerator.process_index :: self.accelerator.num_processes]
        modules = [] if self.settings.in_train_mode else self.modules
        silent = not self.accelerator.is_local_main_process
        drawn = []
        with unchanged_random_states(self.accelerator.device), in_eval_mode(*modules), whole(*self.modules):
            seeded = [prompt if prompt.seed is not None else replace(prompt, seed=_any_seed()) for prompt in share]
            latents = [self.painter.latents(prompt) for prompt in progress_bar(seeded, desc="previews", leave=False, disable=silent)]
            pictures = self.painter.pictures(seeded, latents)
        clear_device_cache(self.accelerator.device)
        for asked, prompt, picture in zip(share, seeded, pictures, strict=True):
            if picture is not None:
                path = self.settings.folder / _file_name(self.settings.output_name, mark, asked)
                try:
                    write_png(path, picture, self._parameters(prompt, epoch, global_step))
                except OSError as fault:
                    logger.error("preview %s could not be written: %s; %s; training goes on", path, fault, room_left(path.parent))
                    continue
                drawn.append(Drawn(prompt.index, path, prompt.prompt))
        try:
            self._log(drawn, global_step)
        except OSError as fault:
            logger.error("previews could not be logged: %s; training goes on", fault)

    def _parameters(self, prompt: PreviewPrompt, epoch: int, global_step: int) -> str:
        settings = {
            "Steps": prompt.steps,
            "Sampler": SAMPLER_TITLES[prompt.sampler],
            "CFG scale": prompt.scale,
            "Seed": prompt.seed,
            "Size": f"{prompt.width}x{prompt.height}",
            "Model": self.settings.model_name,
            "Network": self.settings.output_name or "",
            "Training step": global_step,
            "Training epoch": epoch,
        }
        return parameters_text(prompt.prompt, prompt.negative_prompt, settings)

    def _log(self, drawn: list[Drawn], global_step: int) -> None:
        """Hands the pictures of all processes to the trackers, as `sample_<index>`."""
        for picture in gather_object(drawn):
            for tracker in self.accelerator.trackers:
                if not picture.path.exists():  # drawn on another machine
                    continue
                if tracker.name == "wandb":
                    import wandb

                    image = wandb.Image(str(picture.path), caption=picture.prompt)
                    tracker.log({f"sample_{picture.index}": image}, commit=False)
                elif tracker.name == "tensorboard":
                    pixels = np.asarray(Image.open(picture.path))[None]
                    tracker.log_images({f"sample_{picture.index}": pixels}, step=global_step, dataformats="NHWC")


def _any_seed() -> int:
    return random.SystemRandom().randrange(2**32)


def _file_name(output_name: str | None, mark: str, prompt: PreviewPrompt) -> str:
    """`[<output_name>_]<mark>_<index>_<local time>[_<seed>].png`; the seed only if the prompt names one."""
    now = time.strftime("%Y%m%d%H%M%S", time.localtime())
    seed = None if prompt.seed is None else str(prompt.seed)
    parts = [output_name, mark, f"{prompt.index:02d}", now, seed]
    return "_".join(part for part in parts if part) + ".png"
