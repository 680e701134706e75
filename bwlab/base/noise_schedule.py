"""The noise schedule of a single-file checkpoint, which names none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bwlab.base.architectures import Config
from bwlab.base.prediction import Prediction

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

STABLE_DIFFUSION: Config = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}


def new_noise_schedule(prediction: Prediction) -> SchedulerMixin:
    """Return Stable Diffusion's noise schedule, as a DDIM sampler."""
    from diffusers import DDIMScheduler

    # A schedule that ends in noise alone has to be sampled from its very end (Lin et al., section 3.3).
    ends = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if prediction.zero_snr else {}
    return DDIMScheduler(**STABLE_DIFFUSION, prediction_type=prediction.kind, **ends)
