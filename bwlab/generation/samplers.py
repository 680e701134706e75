"""Samplers (diffusers' schedulers) by name, built on the noise schedule of a base model.

The noise schedule of training and analysis is in `bwlab.base.noise_schedule`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError, did_you_mean

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

    from bwlab.base.architectures import Pipeline

DEFAULT_SAMPLER = "dpmpp_2m_karras"
KEPT_FROM_BASE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
LCM_STEPS = 50  # steps of the sampler from which latent consistency models are distilled (arXiv 2310.04378)


@dataclass(frozen=True)
class Sampler:
    """A sampler: a way from noise to an image.

    Attributes:
        name: value of `--sampler`.
        label: name in the AUTOMATIC1111 web UI, for image metadata.
        scheduler: name of the class in diffusers.
        settings: settings of the scheduler in addition to the noise schedule of the base.
        most_steps: highest number of steps that it can take.

    """

    name: str
    label: str
    scheduler: str
    settings: Mapping[str, object] = field(default_factory=dict)
    most_steps: int = 1000


SAMPLERS: Mapping[str, Sampler] = {
    sampler.name: sampler
    for sampler in (
        Sampler(
            DEFAULT_SAMPLER,
            "DPM++ 2M Karras",
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True},
        ),
        Sampler("euler", "Euler", "EulerDiscreteScheduler", {"use_karras_sigmas": False}),
        Sampler("euler_a", "Euler a", "EulerAncestralDiscreteScheduler"),
        Sampler("ddim", "DDIM", "DDIMScheduler", {"clip_sample": False}),
        Sampler("unipc", "UniPC", "UniPCMultistepScheduler", {"solver_order": 2, "use_karras_sigmas": False}),
        # For bases and adapters distilled for it: a few steps at guidance 1 to 2.
        Sampler("lcm", "LCM", "LCMScheduler", {"original_inference_steps": LCM_STEPS, "clip_sample": False}, LCM_STEPS),
    )
}


def sampler_named(name: str) -> Sampler:
    """Return the sampler of this name; if there is none, raise `BwlabError` with the nearest name and all names."""
    if name not in SAMPLERS:
        fix = f"{did_you_mean(name.replace('++', 'pp'), SAMPLERS)}Choose from {', '.join(SAMPLERS)}"
        raise BwlabError(f"--sampler {name}", "no such sampler", fix)
    return SAMPLERS[name]


def new_scheduler(name: str, pipe: Pipeline) -> SchedulerMixin:
    """Return a new diffusers scheduler: the sampler's steps on the noise schedule of the pipeline's scheduler.

    Betas and prediction type (epsilon, v or sample) come from the pipeline, whatever scheduler it was saved with.
    """
    import diffusers

    sampler = sampler_named(name)
    # Stable Diffusion's timesteps count from 1; pipelines saved without that setting would be corrected with a warning.
    settings = {**_noise(pipe.scheduler.config), **sampler.settings, "steps_offset": 1}
    scheduler: SchedulerMixin = getattr(diffusers, sampler.scheduler).from_config(pipe.scheduler.config, **settings)
    return scheduler


def _noise(config: Mapping[str, object]) -> dict[str, object]:
    """Return the noise schedule in a scheduler's config, with the defaults that `from_config` would read anew."""
    return {name: config[name] for name in KEPT_FROM_BASE if name in config}
