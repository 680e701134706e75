"""What a scheduler's config says of the noise process, and the schedule of a single-file checkpoint, which has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bwlab.base.architectures import Config
from bwlab.base.prediction import Prediction
from bwlab.errors import BwlabError

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


def is_flow(config: Mapping[str, object]) -> bool:
    """Return whether the config of a base's scheduler is that of flow matching rather than diffusion."""
    return (
        str(config.get("_class_name", "")).startswith("FlowMatch") or config.get("prediction_type") == "flow_prediction"
    )


def require_known_noise(config: Mapping[str, object]) -> None:
    """Raise BwlabError if a base's scheduler adds noise by EDM (Karras et al. 2022, arXiv 2206.00364), as Playground's.

    Its noise has standard deviations of 0.002 to 80, and its denoiser is scaled by them.
    """
    if "sigma_data" in config:
        found = f"it adds noise by EDM (sigma_data = {config['sigma_data']}), which bwlab neither trains nor samples"
        raise BwlabError("the base's scheduler", found, "Use a base of diffusion (DDPM) or flow matching")


def fixed_shift(config: Mapping[str, object]) -> float:
    """Return the shift in the config of a scheduler of flow matching, by either of diffusers' names; 1 if it has none.

    >>> fixed_shift({"flow_shift": 3.0})
    3.0
    """
    return float(str(config.get("shift", config.get("flow_shift", 1.0))))


def new_noise_schedule(prediction: Prediction) -> SchedulerMixin:
    """Return Stable Diffusion's noise schedule, as a DDIM sampler."""
    from diffusers import DDIMScheduler

    # A schedule that ends in noise alone has to be sampled from its very end (Lin et al., section 3.3).
    ends = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if prediction.zero_snr else {}
    return DDIMScheduler(**STABLE_DIFFUSION, prediction_type=prediction.kind, **ends)
