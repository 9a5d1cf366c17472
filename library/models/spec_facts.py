"""What `modelspec.*` metadata says about Stable Diffusion models and adapters for them; imports no model code."""

from dataclasses import replace

from library.saving.modelspec import ModelFacts


def sd_facts(*, v2: bool, v_parameterization: bool) -> ModelFacts:
    """Of an adapter for SD1 or SD2."""
    architecture, side = "stable-diffusion-v1", 512
    if v2:
        architecture, side = ("stable-diffusion-v2-768-v", 768) if v_parameterization else ("stable-diffusion-v2-512", 512)
    return ModelFacts(f"{architecture}/lora", "diffusers", _prediction(v_parameterization), (side, side))


def sdxl_facts(*, v_parameterization: bool) -> ModelFacts:
    """Of an adapter for SDXL."""
    implementation = "https://github.com/Stability-AI/generative-models"
    return ModelFacts("stable-diffusion-xl-v1-base/lora", implementation, _prediction(v_parameterization), (1024, 1024))


def whole_model(facts: ModelFacts) -> ModelFacts:
    """The same of the model itself."""
    return replace(facts, architecture=facts.architecture.removesuffix("/lora"))


def _prediction(v_parameterization: bool) -> str:
    return "v_prediction" if v_parameterization else "epsilon"
