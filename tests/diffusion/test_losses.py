"""Losses and weights on numbers small enough to check by hand."""

import math

import pytest
import torch
from torch import nn

from library.diffusion.losses import LossSettings, elementwise_loss, huber_width, weighted_loss
from library.diffusion.objectives import DDPM
from library.diffusion.weighting import latent_mask

# snr at timesteps 0, 1, 2: 4000, 4 and 0.25; signal power 0.8 at timestep 1
OBJECTIVE = DDPM(torch.tensor([1.0, 0.8, 0.2]), torch.tensor([4000.0, 4.0, 0.25]))
VELOCITY = DDPM(OBJECTIVE.alphas_cumprod, OBJECTIVE.snr, "v_prediction")
TIMESTEPS = torch.tensor([0, 1, 2])


def losses(objective=OBJECTIVE, mask=None, weights=(1.0, 1.0, 1.0), **options):
    """Per-sample losses where prediction and target are 2 apart everywhere: 4 without any weight."""
    prediction = torch.full((3, 4, 2, 2), 2.0)
    settings = LossSettings(**options)
    result = weighted_loss(
        prediction, torch.zeros_like(prediction), TIMESTEPS, objective, settings, sample_weights=torch.tensor(weights), mask=mask
    )
    return result.tolist()


def test_the_default_is_the_mean_square_of_each_sample():
    assert losses() == pytest.approx([4, 4, 4])


def test_l1_is_the_mean_distance():
    assert losses(loss_type="l1") == pytest.approx([2, 2, 2])


def test_sample_weights_multiply_without_renormalising():
    assert losses(weights=(0.0, 0.5, 2.0)) == pytest.approx([0, 2, 8])


@pytest.mark.parametrize("objective, expected", [(OBJECTIVE, [5 / 4000, 1, 1]), (VELOCITY, [5 / 4001, 4 / 5, 0.25 / 1.25])])
def test_min_snr_caps_the_pull_of_clean_images(objective, expected):
    assert losses(objective, min_snr_gamma=5) == pytest.approx([4 * weight for weight in expected])


def test_velocity_loss_scaled_like_noise_loss():
    assert losses(VELOCITY, scale_v_pred_loss_like_noise_pred=True) == pytest.approx([4 * 1000 / 1001, 4 * 4 / 5, 4 * 0.2])


def test_velocity_like_loss_is_added_in_proportion():
    assert losses(v_pred_like_loss=0.5) == pytest.approx([4 + 4 / (1000 / 1001) * 0.5, 4 + 4 / 0.8 * 0.5, 4 + 4 / 0.2 * 0.5])


@pytest.mark.parametrize("objective, expected", [(OBJECTIVE, [1000**-0.5, 0.5, 2]), (VELOCITY, [1 / 1001, 1 / 5, 1 / 1.25])])
def test_debiased_weights(objective, expected):
    assert losses(objective, debiased_estimation_loss=True) == pytest.approx([4 * weight for weight in expected])


def test_all_weights_combine_in_order():
    scaled = 4 * (4 / 5) * (4 / 5)  # timestep 1: min-SNR of velocity, then its scale
    expected = (scaled + scaled / (4 / 5) * 0.5) / 5  # plus the v-like part, then debiased
    options = {"min_snr_gamma": 5, "scale_v_pred_loss_like_noise_pred": True, "v_pred_like_loss": 0.5, "debiased_estimation_loss": True}
    assert losses(VELOCITY, **options)[1] == pytest.approx(expected)


def test_huber_losses_follow_their_formulas():
    prediction, target, width = torch.tensor([3.0]), torch.tensor([0.0]), 0.5
    root = math.sqrt(9 + 0.25) - 0.5
    assert elementwise_loss(prediction, target, "huber", width).item() == pytest.approx(2 * 0.5 * root)
    assert elementwise_loss(prediction, target, "smooth_l1", width).item() == pytest.approx(2 * root)


def width(schedule, objective=OBJECTIVE, **options):
    value = huber_width(TIMESTEPS, objective, LossSettings("huber", schedule, **options))
    return value if isinstance(value, float) else value.flatten().tolist()


def test_huber_widths_by_schedule():
    assert width("constant", huber_c=0.1, huber_scale=2.0) == pytest.approx(0.2)
    assert width("exponential", huber_c=0.1) == pytest.approx([1, 0.1 ** (1 / 3), 0.1 ** (2 / 3)])
    assert width("snr", huber_c=0.1, huber_scale=9.0) == pytest.approx([1, 0.9 / 1.5**2 + 0.1, 0.9 / 9 + 0.1])


def test_the_snr_width_is_finite_at_pure_noise():
    terminal = DDPM(torch.tensor([1.0, 0.8, 0.0]), OBJECTIVE.snr)
    assert width("snr", terminal, huber_c=0.1)[2] == pytest.approx(0.1)


def test_half_precision_predictions_are_compared_in_float32():
    prediction = torch.full((1, 4, 2, 2), 300.0, dtype=torch.float16)  # its square overflows float16
    loss = weighted_loss(prediction, prediction * 0, torch.tensor([1]), OBJECTIVE, LossSettings(), sample_weights=torch.ones(1))
    assert loss.dtype == torch.float32 and loss.item() == 90000


def test_a_mask_counts_by_area_without_renormalising():
    alpha = torch.zeros(3, 4, 4)
    alpha[:, :2] = 1.0
    assert losses(mask=latent_mask((2, 2), alpha_masks=alpha)) == pytest.approx([2, 2, 2])


def test_masks_shrink_by_area():
    alpha = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    assert latent_mask((1, 1), alpha_masks=alpha).tolist() == [[[[0.25]]]]


def test_the_first_channel_of_a_conditioning_image_is_the_mask_and_goes_before_alpha():
    image = torch.stack([torch.full((1, 2, 2), 0.0), torch.full((1, 2, 2), 1.0), torch.full((1, 2, 2), -1.0)], dim=1)
    mask = latent_mask((1, 1), conditioning_images=image, alpha_masks=torch.ones(1, 2, 2), masked_loss=True)
    assert mask.item() == 0.5


def test_conditioning_images_mask_only_when_asked_to():
    assert latent_mask((1, 1), conditioning_images=torch.ones(1, 3, 2, 2)) is None
    assert latent_mask((1, 1), masked_loss=True) is None


def test_the_loss_is_one_graph_without_host_reads():
    prediction = nn.Parameter(torch.ones(3, 4, 2, 2, device="meta"))  # a host read of a meta tensor raises
    settings = LossSettings("huber", "snr", 0.1, 1.0, 5.0, True, 0.1, True)
    objective = VELOCITY.to("meta")
    loss = weighted_loss(
        prediction, prediction.detach() * 0, TIMESTEPS.to("meta"), objective, settings, sample_weights=torch.ones(3, device="meta")
    )
    loss.mean().backward()
    assert prediction.grad.shape == prediction.shape


@pytest.mark.parametrize("wrong", [{"loss_type": "mse"}, {"huber_schedule": "cosine"}])
def test_unknown_names_are_refused_with_the_option(wrong):
    with pytest.raises(ValueError, match=f"--{next(iter(wrong))}"):
        LossSettings(**wrong)
