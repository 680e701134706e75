"""Samplers (diffusers' schedulers) by name, built on the noise of a base model, which is in `bwlab.base.noise`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bwlab.base.models import family_of
from bwlab.base.noise_schedule import fixed_shift, is_flow, require_known_noise
from bwlab.errors import BwlabError, did_you_mean

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

    from bwlab.base.architectures import Pipeline

AUTO = "auto"
"""The usual sampler of a base: `dpmpp_2m_karras` by diffusion, `euler` by flow matching."""
DEFAULT_SAMPLER = "dpmpp_2m_karras"
KEPT_FROM_BASE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
# Ways to spread noise over the steps that a base's scheduler may have been saved with.
OWN_SIGMAS: Mapping[str, object] = dict.fromkeys(
    ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"), False
)
DEFAULT_STEPS = 1000
LCM_STEPS = 50  # steps of the sampler from which latent consistency models are distilled (arXiv 2310.04378)


@dataclass(frozen=True)
class Sampler:
    """A sampler: a way from noise to an image.

    Attributes:
        name: value of `--sampler`.
        label: name in the AUTOMATIC1111 web UI, for image metadata.
        scheduler: name of the class in diffusers for diffusion.
        settings: settings of the scheduler in addition to the noise schedule of the base.
        most_steps: highest number of steps that it can take.
        flow: name of the class in diffusers for flow matching; empty if it does not sample by that.

    """

    name: str
    label: str
    scheduler: str
    settings: Mapping[str, object] = field(default_factory=dict)
    most_steps: int = DEFAULT_STEPS
    flow: str = ""


SAMPLERS: Mapping[str, Sampler] = {
    sampler.name: sampler
    for sampler in (
        Sampler(
            DEFAULT_SAMPLER,
            "DPM++ 2M Karras",
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True},
        ),
        Sampler(
            "euler",
            "Euler",
            "EulerDiscreteScheduler",
            {"use_karras_sigmas": False},
            flow="FlowMatchEulerDiscreteScheduler",
        ),
        Sampler("euler_a", "Euler a", "EulerAncestralDiscreteScheduler"),
        Sampler("ddim", "DDIM", "DDIMScheduler", {"clip_sample": False}),
        Sampler(
            "unipc",
            "UniPC",
            "UniPCMultistepScheduler",
            {"solver_order": 2, "use_karras_sigmas": False},
            flow="UniPCMultistepScheduler",
        ),
        # For bases and adapters distilled for it: a few steps at guidance 1 to 2.
        Sampler("lcm", "LCM", "LCMScheduler", {"original_inference_steps": LCM_STEPS, "clip_sample": False}, LCM_STEPS),
        Sampler(
            "dpmpp_2m",
            "DPM++ 2M",
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": False},
            flow="DPMSolverMultistepScheduler",
        ),
        Sampler(
            "heun",
            "Heun",
            "HeunDiscreteScheduler",
            {"use_karras_sigmas": False},
            flow="FlowMatchHeunDiscreteScheduler",
        ),
    )
}


def sampler_named(name: str) -> Sampler:
    """Return the sampler of this name; if there is none, raise `BwlabError` with the nearest name and all names."""
    if name not in SAMPLERS:
        fix = f"{did_you_mean(name.replace('++', 'pp'), SAMPLERS)}Choose from {', '.join((AUTO, *SAMPLERS))}"
        raise BwlabError(f"--sampler {name}", "no such sampler", fix)
    return SAMPLERS[name]


def most_steps(name: str) -> int:
    """Return the highest number of steps of a sampler, or of `"auto"`."""
    return DEFAULT_STEPS if name == AUTO else sampler_named(name).most_steps


def check_sampler(name: str) -> None:
    """Raise `BwlabError` unless there is a sampler of this name; `"auto"` is one."""
    if name != AUTO:
        sampler_named(name)


def sampler_for(pipe: Pipeline, name: str) -> Sampler:
    """Return a sampler for a base; `"auto"` is the usual one.

    Raises:
        BwlabError: there is no such sampler, or the base was trained by flow matching and it does not sample by that,
            or not with the pipelines of the base's family; or the base's noise is of neither kind.

    """
    require_known_noise(pipe.scheduler.config)
    flow = is_flow(pipe.scheduler.config)
    if name == AUTO:
        return SAMPLERS["euler" if flow else DEFAULT_SAMPLER]
    sampler = sampler_named(name)
    if not flow:
        return sampler
    flowing = [other.name for other in SAMPLERS.values() if other.flow]
    own = family_of(pipe).samplers(pipe)
    fitting = [other for other in flowing if own is None or other in own]
    if name not in fitting:
        found = "the base was trained by flow matching, and this sampler does not sample by that"
        if name in flowing:
            found = f"diffusers' pipelines of {family_of(pipe).label} do not work with it"
        raise BwlabError(f"--sampler {name}", found, f"Choose from {', '.join((AUTO, *fitting))}")
    return sampler


def new_scheduler(name: str, pipe: Pipeline) -> SchedulerMixin:
    """Return a new diffusers scheduler: the sampler's steps on the noise of the pipeline's scheduler.

    Betas and prediction type (epsilon, v or sample), or the shift of flow matching, come from the pipeline, whatever
    scheduler it was saved with; how noise is spread over the steps comes from the sampler.
    """
    import diffusers

    sampler = sampler_for(pipe, name)
    config = pipe.scheduler.config
    if is_flow(config):
        return _flow_scheduler(sampler, config)
    # Stable Diffusion's timesteps count from 1; pipelines saved without that setting would be corrected with a warning.
    settings = {**OWN_SIGMAS, **_noise(config), **sampler.settings, "steps_offset": 1}
    scheduler: SchedulerMixin = getattr(diffusers, sampler.scheduler).from_config(config, **settings)
    return scheduler


def _flow_scheduler(sampler: Sampler, config: Mapping[str, object]) -> SchedulerMixin:
    """Return a scheduler of flow matching; those that are made for diffusion too are set to it."""
    import diffusers

    shift = fixed_shift(config)
    settings: dict[str, object] = {"shift": shift}
    if not sampler.flow.startswith("FlowMatch"):
        settings = {
            "use_flow_sigmas": True,
            "prediction_type": "flow_prediction",
            "flow_shift": shift,
            "solver_order": 2,
        }
    scheduler: SchedulerMixin = getattr(diffusers, sampler.flow).from_config(config, **{**OWN_SIGMAS, **settings})
    return scheduler


def _noise(config: Mapping[str, object]) -> dict[str, object]:
    """Return the noise schedule in a scheduler's config, with the defaults that `from_config` would read anew."""
    return {name: config[name] for name in KEPT_FROM_BASE if name in config}
