"""Draws one preview after another with the models of the run, the way the training step uses them.

Samplers are made once, and with frozen text encoders so are text states. A picture that does not fit into the GPU's memory is
left out, and training goes on.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from library.diffusion.sampling import sample_latents
from library.models.devices import clear_device_cache
from library.models.family import Family, Models
from library.models.prompts import encode_prompts, prompt_tokens
from library.models.samplers import make_sampler
from library.saving.pictures import picture_of
from library.strangers import FAULTS
from library.training.memory_shortage import DEVICE_FAULTS
from library.training.preview_prompts import PreviewPrompt

logger = logging.getLogger(__name__)


class Painter:
    """weight_dtype: of the U-Net's input, as in training. keeps_text_states: the text encoders never change.

    Each prompt's sampler is a name of library.models.samplers.
    """

    def __init__(
        self,
        prompts: Sequence[PreviewPrompt],
        family: Family,
        models: Models,
        accelerator: Accelerator,
        *,
        weight_dtype: torch.dtype,
        keeps_text_states: bool,
    ):
        self.family = family
        self.models = models
        self.accelerator = accelerator
        self.weight_dtype = weight_dtype
        self.keeps_text_states = keeps_text_states
        self._tokens = {prompt.index: prompt_tokens(family, [prompt.prompt, prompt.negative_prompt]) for prompt in prompts}
        self._samplers = {prompt.sampler: make_sampler(prompt.sampler, family.prediction_type) for prompt in prompts}
        self._text_states: dict[int, dict[str, Tensor]] = {}

    @torch.no_grad()
    def latents(self, prompt: PreviewPrompt) -> Tensor | None:
        """(1, C, H/8, W/8) in fp32, as the VAE wants them; None if it cannot be drawn. The prompt must have a seed.

        Noise comes from the CPU's generator, so a seed is the same picture on every device.
        """
        latents = self.family.latents
        generator = torch.Generator().manual_seed(prompt.seed)
        shape = (1, latents.channels, prompt.height // latents.stride, prompt.width // latents.stride)
        noise = torch.randn(shape, generator=generator).to(self.accelerator.device)
        size = torch.tensor([[prompt.height, prompt.width]], device=noise.device)
        try:
            text_states = self._states(prompt)

            def denoise(noisy: Tensor, timestep: Tensor) -> Tensor:
                count = len(noisy)
                sizes = {
                    "original_sizes_hw": size.expand(count, 2),
                    "crop_top_lefts": torch.zeros_like(size).expand(count, 2),
                    "target_sizes_hw": size.expand(count, 2),
                }
                states = {name: state[:count] for name, state in text_states.items()}
                noisy = noisy.to(self.weight_dtype)
                with self.accelerator.autocast():
                    return self.family.predict(self.models.unet, noisy, timestep.expand(count), states, sizes).float()

            sampler = self._samplers[prompt.sampler]
            drawn = sample_latents(denoise, sampler, noise, steps=prompt.steps, scale=prompt.scale, generator=generator)
        except torch.cuda.OutOfMemoryError:
            return self._left_out(prompt)
        except FAULTS as fault:
            if any(words in str(fault) for words in DEVICE_FAULTS):
                raise
            logger.warning(
                "preview %d could not be drawn with %d steps of %s (%s); training goes on",
                prompt.index, prompt.steps, prompt.sampler, " ".join(str(fault).split()),
            )  # fmt: skip
            return None
        return drawn / latents.scaling_factor

    @torch.no_grad()
    def pictures(self, prompts: Sequence[PreviewPrompt], all_latents: Sequence[Tensor | None]) -> list[Image.Image | None]:
        """Pictures of latents; the VAE comes to the device when all are ready, and goes back to where it was."""
        pairs = list(zip(prompts, all_latents, strict=True))
        with suppress(torch.cuda.OutOfMemoryError), self._vae_on_device() as vae:  # there may be no room for the VAE itself
            return [None if latents is None else self._picture(vae, prompt, latents) for prompt, latents in pairs]
        return [None if latents is None else self._left_out(prompt) for prompt, latents in pairs]

    def _states(self, prompt: PreviewPrompt) -> dict[str, Tensor]:
        """The text states of the prompt and, in the second row, of its negative prompt."""
        if prompt.index in self._text_states:
            return self._text_states[prompt.index]
        with self.accelerator.autocast():
            states = encode_prompts(self.family, self.models.text_encoders, self._tokens[prompt.index])
        states = {name: state.to(self.accelerator.device) for name, state in states.items()}
        if self.keeps_text_states:
            self._text_states[prompt.index] = states
        return states

    def _picture(self, vae: nn.Module, prompt: PreviewPrompt, latents: Tensor) -> Image.Image | None:
        pixels = None
        with suppress(torch.cuda.OutOfMemoryError):  # what the failed call made is let go behind this block only
            pixels = vae.decode(latents.to(vae.dtype)).sample[0]
        if pixels is None:
            return self._left_out(prompt)
        if not torch.isfinite(pixels).all():
            logger.warning("preview %d is partly black: the VAE gave NaN or infinite values. Try --no_half_vae", prompt.index)
        return picture_of(pixels)

    @contextmanager
    def _vae_on_device(self) -> Iterator[nn.Module]:
        vae = self.models.vae
        home = vae.device
        try:
            yield vae.to(self.accelerator.device)
        finally:
            vae.to(home)

    def _left_out(self, prompt: PreviewPrompt) -> None:
        clear_device_cache(self.accelerator.device)
        logger.warning(
            "preview %d (%dx%d) is left out, the GPU's memory is not enough; training goes on. A smaller --w and --h needs less",
            prompt.index, prompt.width, prompt.height,
        )  # fmt: skip
