"""The samplers of preview images: names of --sample_sampler to diffusers' schedulers, with the betas of training."""

import logging
from typing import Any

import diffusers

from library.diffusion.schedules import BETA_END, BETA_START, TRAIN_TIMESTEPS

logger = logging.getLogger(__name__)

# Name -> scheduler class and its own settings. A `k_` in front of a name changes nothing.
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpmsolver": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmsingle": ("DPMSolverSinglestepScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}),
}
DEFAULT = "ddim"


def make_sampler(name: str | None, prediction_type: str) -> diffusers.SchedulerMixin:
    """A new scheduler; ddim, with a warning, for a name that is none.

    Raises ValueError if the scheduler needs a package that is not installed.
    """
    known = (name or DEFAULT).removeprefix("k_")
    if known not in SAMPLERS:
        logger.warning("there is no sampler %r: using %s; known are %s", name, DEFAULT, ", ".join(SAMPLERS))
        known = DEFAULT
    class_name, settings = SAMPLERS[known]
    betas = {"beta_start": BETA_START, "beta_end": BETA_END, "beta_schedule": "scaled_linear"}
    try:
        scheduler = getattr(diffusers, class_name)(
            num_train_timesteps=TRAIN_TIMESTEPS, prediction_type=prediction_type, **betas, **settings
        )
    except ImportError as missing:
        raise ValueError(
            f"--sample_sampler {name} needs the package 'scipy': pip install scipy, or use --sample_sampler {DEFAULT}"
        ) from missing
    if hasattr(scheduler.config, "clip_sample"):
        scheduler.register_to_config(clip_sample=True)
    return scheduler
