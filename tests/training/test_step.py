"""The step with hand-made parts: what a flagged sample aims at, and what a bad latent costs."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from library.data.batch import Batch
from library.diffusion.losses import LossSettings
from library.diffusion.noise import NoiseSettings
from library.diffusion.objectives import DDPM
from library.models.family import Models
from library.training.step import StepParts, StepSettings, training_loss

SETTINGS = StepSettings(
    NoiseSettings(), LossSettings(), train_text_encoder=False, vae_batch_size=1, weight_dtype=torch.float32, cast_text_states=False
)
BASE_ANSWER = 0.25


class Network(torch.nn.Module):
    """Adds `weight` times its multiplier to the base model's answer."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))
        self.multiplier = 1.0

    def set_multiplier(self, multiplier: float) -> None:
        self.multiplier = multiplier


class FakeFamily:
    latents = SimpleNamespace(scaling_factor=1.0)

    def __init__(self, network: Network):
        self.network = network

    def predict(self, unet, noisy_latents, timesteps, text_states, sizes):
        return torch.full_like(noisy_latents, BASE_ANSWER) + self.network.multiplier * self.network.weight

    def encode_images(self, vae, pixels):
        return pixels[:, :, ::8, ::8]


@pytest.fixture
def parts():
    network = Network()
    vae = torch.nn.Linear(1, 1)
    return StepParts(FakeFamily(network), Models(None, vae, []), network, DDPM.stable_diffusion("epsilon", False), nullcontext, None)


def batch_of(*attributes: dict) -> Batch:
    count, sizes = len(attributes), torch.zeros(len(attributes), 2, dtype=torch.int64)
    return Batch(
        captions=[""] * count, image_keys=["a"] * count, loss_weights=torch.ones(count), original_sizes_hw=sizes, crop_top_lefts=sizes,
        target_sizes_hw=sizes, flipped=[False] * count, bucket=(64, 64), latents=torch.zeros(count, 4, 8, 8), text_states={},
        custom_attributes=list(attributes),
    )  # fmt: skip


PRESERVE = {"diff_output_preservation": True}


def test_a_preserved_sample_aims_at_the_base_models_answer(parts):
    """The network adds 0.5 to it, so the flagged sample's loss is 0.5 squared, whatever the noise."""
    _, step = training_loss(batch_of(PRESERVE, {}), parts, SETTINGS)
    assert step.sample_losses[0] == pytest.approx(0.25)
    assert step.sample_losses[1] == pytest.approx((step.noise[1] - 0.75).square().mean().item())


def test_preservation_pulls_the_network_back_and_leaves_it_switched_on(parts):
    loss, _ = training_loss(batch_of(PRESERVE), parts, SETTINGS)
    loss.backward()
    assert parts.network.weight.grad == pytest.approx(1.0)  # d/dw w^2 at 0.5: none of it through the target
    assert parts.network.multiplier == 1.0


def test_without_the_flag_the_base_model_is_not_asked(parts):
    asked = []
    parts.network.set_multiplier = asked.append
    training_loss(batch_of({}, {"diff_output_preservation": False}), parts, SETTINGS)
    assert not asked


def test_latents_that_are_not_numbers_count_as_zero_and_are_flagged(parts):
    images = torch.ones(2, 4, 64, 64)
    images[1] = float("nan")
    batch = replace(batch_of({}, {}), latents=None, images=images)
    _, step = training_loss(batch, parts, SETTINGS)
    assert bool(step.bad_latents) and step.latents[1].abs().max() == 0 and step.latents[0].min() == 1
