"""A trained LoRA loads in diffusers' pipelines: every key finds its layer, and the models then compute what they did in training."""

import pytest
import torch
from safetensors import safe_open

from tests.tiny_runs import arguments, picture_folder, prepared, trained

pytestmark = pytest.mark.usefixtures("models_loaded_once")

KINDS = {"sd1": ("sd", {}), "sd2": ("sd", {"v2": True}), "sdxl": ("sdxl", {})}


def pipeline_of(family, path: str):
    """diffusers' own pipeline around freshly loaded models; the tokenizers are left out."""
    import diffusers

    models = family.load(path)
    scheduler = diffusers.DDIMScheduler()
    if len(models.text_encoders) == 1:
        return diffusers.StableDiffusionPipeline(
            models.vae, models.text_encoders[0], None, models.unet, scheduler, None, None, requires_safety_checker=False
        )
    return diffusers.StableDiffusionXLPipeline(models.vae, *models.text_encoders, None, None, models.unet, scheduler, add_watermarker=False)


def encoders_of(pipeline) -> list[torch.nn.Module]:
    return [encoder for encoder in (pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)) if encoder is not None]


@torch.no_grad()
def computed(family, unet, text_encoders) -> tuple[torch.Tensor, torch.Tensor]:
    """The text states of a caption, and what the U-Net predicts with the first encoders' states."""
    text = family.encode_text(text_encoders, family.tokenize(["a red picture"]))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 16, 16, generator=generator)
    sizes = dict.fromkeys(("original_sizes_hw", "crop_top_lefts", "target_sizes_hw"), torch.tensor([[128, 128]]))
    return text["prompt_embeds"], family.predict(unet, latents, torch.tensor([500]), text, sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_lora_gives_in_diffusers_what_it_gave_in_training(kind, tiny_models, tmp_path):
    script, options = KINDS[kind]
    model = tiny_models(kind)
    data = picture_folder(tmp_path / "data", count=1, repeats=2)
    # conv_dim adds the layers beyond attention; two steps move both matrices of each pair away from zero
    run = prepared(script, arguments(model, data, tmp_path, max_train_steps=2, network_args=["conv_dim=2"], **options))
    trained(run)
    in_training = computed(run.family, run.models.unet, run.models.text_encoders)

    pipeline = pipeline_of(run.family, str(model))
    plain = computed(run.family, pipeline.unet, encoders_of(pipeline))
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        modules = {key.partition(".")[0] for key in file.keys()}  # noqa: SIM118 (it is no dict)
    pipeline.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    parts = [pipeline.unet, *encoders_of(pipeline)]
    loaded = [name for part in parts for name, _ in part.named_modules() if name.endswith("lora_A")]
    assert len(loaded) == len(modules)
    for before, during, after in zip(plain, in_training, computed(run.family, pipeline.unet, encoders_of(pipeline)), strict=True):
        torch.testing.assert_close(after, during, rtol=1e-3, atol=1e-4)
        assert (after - before).abs().max() > 1e-3
