"""What the two families say about themselves, and previews, sizes and checkpointing."""

from argparse import Namespace

import diffusers
import pytest
import torch

from library.diffusion.schedules import alphas_cumprod
from library.models.samplers import SAMPLERS, make_sampler
from library.models.sd import SD
from library.models.sdxl import SDXL
from tests.models.conftest import FAMILIES

OPTIONS = {
    "v2": False,
    "v_parameterization": False,
    "clip_skip": None,
    "max_token_length": 150,
    "tokenizer_cache_dir": "x",
    "strict_compat": False,
}


def test_families_are_made_from_the_command_line():
    assert SD.from_args(Namespace(**OPTIONS | {"v2": True, "clip_skip": 2})) == SD(True, False, 2, 150, "x")
    assert SDXL.from_args(Namespace(**OPTIONS)) == SDXL(False, 150, "x", transpose_text_projection=True)
    assert not SDXL.from_args(Namespace(**OPTIONS | {"strict_compat": True})).transpose_text_projection


def test_sdxl_refuses_v2():
    with pytest.raises(ValueError, match="--v2"):
        SDXL.from_args(Namespace(**OPTIONS | {"v2": True}))


@pytest.mark.parametrize(
    ("family", "version", "architecture", "side"),
    [
        (SD(), "sd_v1", "stable-diffusion-v1/lora", 512),
        (SD(v_parameterization=True), "sd_v1_v", "stable-diffusion-v1/lora", 512),
        (SD(v2=True), "sd_v2", "stable-diffusion-v2-512/lora", 512),
        (SD(v2=True, v_parameterization=True), "sd_v2_v", "stable-diffusion-v2-768-v/lora", 768),
        (SDXL(), "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", 1024),
    ],
)
def test_metadata_facts(family, version, architecture, side):
    facts = family.modelspec_facts()
    assert (family.base_model_version, facts.architecture, facts.resolution) == (version, architecture, (side, side))
    assert family.objective(False).prediction_type == family.prediction_type == facts.prediction_type


@torch.no_grad()
def test_sdxl_is_told_height_before_width_and_crop_before_target(layouts):
    family = FAMILIES["sdxl"]
    unet = family.load(str(layouts("sdxl").folder)).unet
    states = {"prompt_embeds": torch.randn(1, 77, 96), "pooled_prompt_embeds": torch.randn(1, 64)}
    sizes = {
        "original_sizes_hw": torch.tensor([[600, 500]]),
        "crop_top_lefts": torch.tensor([[3, 4]]),
        "target_sizes_hw": torch.tensor([[64, 72]]),
    }
    latents, timesteps = torch.randn(1, 4, 8, 8), torch.tensor([5])
    conditions = {"text_embeds": states["pooled_prompt_embeds"], "time_ids": torch.tensor([[600.0, 500, 3, 4, 64, 72]])}
    expected = unet(latents, timesteps, states["prompt_embeds"], added_cond_kwargs=conditions).sample
    assert torch.equal(family.predict(unet, latents, timesteps, states, sizes), expected)


@pytest.mark.parametrize("name", [*SAMPLERS, "k_lms", "k_euler_a", "k_dpm_2_a"])
def test_samplers_have_the_training_schedule(name):
    if name.endswith("lms"):
        pytest.importorskip("scipy")
    scheduler = make_sampler(name, "v_prediction")
    torch.testing.assert_close(scheduler.alphas_cumprod, alphas_cumprod())
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.get("clip_sample", True) is True
    scheduler.set_timesteps(4)
    sample = scheduler.scale_model_input(torch.randn(1, 4, 8, 8), scheduler.timesteps[0])
    assert scheduler.step(torch.randn(1, 4, 8, 8), scheduler.timesteps[0], sample).prev_sample.isfinite().all()


def test_an_unknown_sampler_falls_back_to_ddim_with_a_warning(caplog):
    assert isinstance(make_sampler("nonsense", "epsilon"), diffusers.DDIMScheduler)
    assert "nonsense" in caplog.text


def test_a_sampler_whose_package_is_missing_names_it_and_another_way(monkeypatch):
    def missing(**settings):
        raise ImportError("scipy")

    monkeypatch.setattr(diffusers, "LMSDiscreteScheduler", missing)
    with pytest.raises(ValueError, match="k_lms.*pip install scipy.*ddim"):
        make_sampler("k_lms", "epsilon")


@pytest.mark.parametrize("train_text_encoders", [True, False])
def test_checkpointing_changes_no_gradient(layouts, train_text_encoders):
    family = FAMILIES["sd1"]
    ids, latents, timesteps = family.tokenize(["a cat"]), torch.randn(1, 4, 8, 8), torch.tensor([7])

    def gradients(checkpointing: bool):
        models = family.load(str(layouts("sd1").folder))
        if checkpointing:
            family.enable_gradient_checkpointing(models, train_text_encoders=train_text_encoders)
        module = models.text_encoders[0] if train_text_encoders else models.unet
        layer = next(layer for layer in module.modules() if isinstance(layer, torch.nn.Linear))
        layer.requires_grad_(True)
        states = family.encode_text(models.text_encoders, ids)
        family.predict(models.unet, latents, timesteps, states, {}).square().mean().backward()
        return layer.weight.grad, models

    plain, _ = gradients(False)
    recomputed, models = gradients(True)
    torch.testing.assert_close(recomputed, plain)
    assert models.unet.is_gradient_checkpointing
    assert models.text_encoders[0].is_gradient_checkpointing == train_text_encoders


def test_networks_get_one_encoder_for_sd_and_a_list_for_sdxl(layouts):
    sd, sdxl = (FAMILIES[kind].load(str(layouts(kind).folder)) for kind in ("sd1", "sdxl"))
    assert FAMILIES["sd1"].text_encoder_for_network(sd) is sd.text_encoders[0]
    assert FAMILIES["sdxl"].text_encoder_for_network(sdxl) == sdxl.text_encoders
