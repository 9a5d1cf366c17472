"""One micro step: a batch becomes a loss.

A pure function of tensors on the device and of the random state: nothing here reads a tensor's value on the host, so the
step never waits for the GPU. What is logged is read later by whoever keeps the returned MicroStep.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from library.data.batch import Batch
from library.diffusion.losses import LossSettings, weighted_loss
from library.diffusion.noise import NoiseSettings, Random, noisy_latents
from library.diffusion.objectives import DDPM
from library.diffusion.weighting import latent_mask
from library.kernels.replay import Named, Replays
from library.models.family import Family, Models

SIZES = ("original_sizes_hw", "crop_top_lefts", "target_sizes_hw")


@dataclass(frozen=True)
class StepSettings:
    """What stays the same over all steps of a run.

    vae_batch_size: images per VAE call when latents are not cached. weight_dtype: the dtype of the frozen models.
    cast_text_states: text encoder outputs are handed on in weight_dtype (--full_fp16).
    """

    noise: NoiseSettings
    losses: LossSettings
    train_text_encoder: bool
    vae_batch_size: int
    weight_dtype: torch.dtype
    cast_text_states: bool


@dataclass(frozen=True)
class StepParts:
    """The models and callables one step works with. `python_random` feeds the scales of multires noise.

    unet_replays, text_replays: record the U-Net's and the trained text encoders' part of a step instead of running it each time.
    """

    family: Family
    models: Models
    network: nn.Module
    objective: DDPM
    autocast: Callable[[], AbstractContextManager]
    python_random: Random
    unet_replays: Replays | None = None
    text_replays: Replays | None = None


@dataclass(frozen=True)
class Noised:
    """Latents and what was mixed into them, all (B, C, H/8, W/8); noise: what the target is made of. timesteps: (B,)."""

    latents: Tensor
    noise: Tensor
    noisy_latents: Tensor
    timesteps: Tensor


@dataclass(frozen=True)
class MicroStep:
    """What one forward pass used and gave. Tensors stay on the device, `loss` is a detached scalar per batch."""

    batch: Batch
    latents: Tensor
    noise: Tensor
    noisy_latents: Tensor
    timesteps: Tensor
    loss: Tensor
    sample_losses: Tensor
    bad_latents: Tensor | None
    epoch: int = 0
    global_step: int = 0


def training_loss(batch: Batch, parts: StepParts, settings: StepSettings) -> tuple[Tensor, MicroStep]:
    """The loss to run backward on, and a record of the step.

    The order of random draws is: VAE sample, text encoder dropout, noise and timesteps (see library.diffusion.noise),
    U-Net dropout.
    """
    latents, bad_latents = scaled_latents(batch, parts, settings)
    text_states = encode_captions(batch, parts, settings)
    noise, noisy, timesteps = noisy_latents(latents, parts.objective, settings.noise, parts.python_random)
    losses = sample_losses(Noised(latents, noise, noisy, timesteps), text_states, batch, parts, settings)
    loss = losses.mean()
    return loss, MicroStep(batch, latents, noise, noisy, timesteps, loss.detach(), losses.detach(), bad_latents)


def sample_losses(noised: Noised, text_states: dict[str, Tensor], batch: Batch, parts: StepParts, settings: StepSettings) -> Tensor:
    """The weighted loss of each sample, (B,)."""
    noisy, timesteps = noised.noisy_latents, noised.timesteps
    prediction = predict(noisy, timesteps, text_states, batch, parts, settings)
    target = parts.objective.target(noised.latents, noised.noise, timesteps)
    if any(attributes.get("diff_output_preservation") for attributes in batch.custom_attributes):
        base_prediction = predict_without_network(noisy, timesteps, text_states, batch, parts, settings)
        target = preserved_target(target, base_prediction, batch)
    mask = latent_mask(
        noised.latents.shape[-2:],
        conditioning_images=batch.conditioning_images,
        alpha_masks=batch.alpha_masks,
        masked_loss=settings.losses.masked_loss,
    )
    return weighted_loss(
        prediction.float(), target.float(), timesteps, parts.objective, settings.losses, sample_weights=batch.loss_weights, mask=mask
    )


def scaled_latents(batch: Batch, parts: StepParts, settings: StepSettings) -> tuple[Tensor, Tensor | None]:
    """Latents (B, C, H/8, W/8) times the family's scaling factor, and a flag tensor that is true if the VAE gave NaN or Inf.

    Values that are not finite become zero, so one bad image costs one sample and not the run.
    """
    bad_latents = None
    if batch.latents is not None:
        latents = batch.latents
    else:
        with torch.no_grad():
            vae_dtype = next(parts.models.vae.parameters()).dtype
            chunks = batch.images.to(vae_dtype).split(settings.vae_batch_size)
            latents = torch.cat([parts.family.encode_images(parts.models.vae, chunk) for chunk in chunks])
            bad_latents = ~torch.isfinite(latents).all()
            latents = torch.nan_to_num(latents, nan=0.0, posinf=0.0, neginf=0.0)
    return latents * parts.family.latents.scaling_factor, bad_latents


def encode_captions(batch: Batch, parts: StepParts, settings: StepSettings) -> dict[str, Tensor]:
    """The text states of the batch: cached ones as they are, else encoded with gradients only if the encoders are trained."""
    if batch.text_states is not None:
        return {name: state.to(settings.weight_dtype) if state.is_floating_point() else state for name, state in batch.text_states.items()}
    encoders = parts.models.text_encoders
    inputs = {str(place): tensor for place, tensor in enumerate([*batch.input_ids, *(batch.token_weights or ())])}

    def compute(inputs: Named) -> Named:
        tensors = list(inputs.values())
        with parts.autocast():
            return parts.family.encode_text(encoders, tensors[: len(encoders)], tensors[len(encoders) :] or None)

    with torch.set_grad_enabled(settings.train_text_encoder):
        text_states = compute(inputs) if parts.text_replays is None else parts.text_replays(compute, inputs)
    if settings.cast_text_states:
        text_states = {name: state.to(settings.weight_dtype) for name, state in text_states.items()}
    return text_states


def predict(
    noisy_latents: Tensor, timesteps: Tensor, text_states: dict[str, Tensor], batch: Batch, parts: StepParts, settings: StepSettings
) -> Tensor:
    """The U-Net's output under autocast; sizes in pixels go along for families that condition on them."""
    sizes = {name: getattr(batch, name) for name in SIZES}
    inputs = {"noisy_latents": noisy_latents.to(settings.weight_dtype), "timesteps": timesteps, **text_states, **sizes}

    def compute(inputs: Named) -> Named:
        texts, sizes = ({name: inputs[name] for name in names} for names in (text_states, SIZES))
        with parts.autocast():
            return {"prediction": parts.family.predict(parts.models.unet, inputs["noisy_latents"], inputs["timesteps"], texts, sizes)}

    return (compute(inputs) if parts.unet_replays is None else parts.unet_replays(compute, inputs))["prediction"]


def predict_without_network(
    noisy_latents: Tensor, timesteps: Tensor, text_states: dict[str, Tensor], batch: Batch, parts: StepParts, settings: StepSettings
) -> Tensor:
    """What the base model alone predicts, without gradients."""
    with torch.no_grad():
        parts.network.set_multiplier(0.0)
        prediction = predict(noisy_latents, timesteps, text_states, batch, parts, settings)
        parts.network.set_multiplier(1.0)
    return prediction


def preserved_target(target: Tensor, base_prediction: Tensor, batch: Batch) -> Tensor:
    """Samples whose subset sets `diff_output_preservation` aim at the base model's prediction instead of at the noise."""
    flags = [bool(attributes.get("diff_output_preservation")) for attributes in batch.custom_attributes]
    chosen = torch.tensor(flags).view(-1, 1, 1, 1).to(target.device, non_blocking=True)
    return torch.where(chosen, base_prediction.to(target.dtype), target)
