"""The noise schedule of a base model: in training, in the analysis, and of a single-file checkpoint that names none.

Samplers, which step along it, are in `bwlab.generation.samplers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bwlab.base.architectures import Config
from bwlab.base.prediction import EPSILON, VELOCITY, Prediction
from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, SchedulerMixin
    from torch import Tensor

    from bwlab.base.architectures import Pipeline

TRAINABLE = (EPSILON, VELOCITY, "sample")

STABLE_DIFFUSION: Config = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}


def noise_schedule(pipe: Pipeline) -> DDPMScheduler:
    """Return the noise schedule that a base was trained with; BwlabError if its prediction type is unknown."""
    from diffusers import DDPMScheduler

    kind = pipe.scheduler.config.get("prediction_type", EPSILON)
    if kind not in TRAINABLE:
        fix = f"Use a base with {', '.join(TRAINABLE)}"
        raise BwlabError("the base's scheduler", f"prediction_type {kind!r}", fix)
    return DDPMScheduler.from_config(pipe.scheduler.config)


def training_target(schedule: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return the target of the prediction: the noise, the velocity or the clean latents."""
    kind = schedule.config.prediction_type
    if kind == VELOCITY:
        velocity: Tensor = schedule.get_velocity(latents, noise, timesteps)
        return velocity
    return noise if kind == EPSILON else latents


def new_noise_schedule(prediction: Prediction) -> SchedulerMixin:
    """Return Stable Diffusion's noise schedule, as a DDIM sampler."""
    from diffusers import DDIMScheduler

    # A schedule that ends in noise alone has to be sampled from its very end (Lin et al., section 3.3).
    ends = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if prediction.zero_snr else {}
    return DDIMScheduler(**STABLE_DIFFUSION, prediction_type=prediction.kind, **ends)
