"""Samplers by name, built on the noise schedule of a base model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

    from bwlab.pipelines import Pipeline

DEFAULT_SAMPLER = "dpmpp_2m_karras"


@dataclass(frozen=True)
class Sampler:
    """A way from noise to a picture.

    Attributes:
        name: as `--sampler` names it.
        label: as the AUTOMATIC1111 web UI calls it, for picture metadata.
        scheduler: diffusers' class.
        settings: what is set on it beside the base's noise schedule.
    """

    name: str
    label: str
    scheduler: str
    settings: Mapping[str, object] = field(default_factory=dict)


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
    )
}


def sampler_named(name: str) -> Sampler:
    """Return the sampler of this name; `BwlabError` listing them if there is none."""
    if name not in SAMPLERS:
        raise BwlabError(f"--sampler {name}", "no such sampler", f"Choose from {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


def new_scheduler(name: str, pipe: Pipeline) -> SchedulerMixin:
    """Return a fresh diffusers scheduler: the sampler's steps on the noise schedule of the pipeline's own.

    Betas and prediction type (epsilon, v or sample) come from the pipeline, whichever scheduler it was saved with.
    """
    import diffusers

    sampler = sampler_named(name)
    # Stable Diffusion's timesteps count from 1; pipelines saved without that setting would be corrected with a warning.
    settings = {**sampler.settings, "steps_offset": 1}
    scheduler: SchedulerMixin = vars(diffusers.schedulers)[sampler.scheduler].from_config(
        pipe.scheduler.config, **settings
    )
    return scheduler
