"""Samplers: every one keeps the base's noise schedule, whichever scheduler the base was saved with."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)

from bwlab.base.noise import noise_process
from bwlab.base.quiet import quiet_libraries
from bwlab.errors import BwlabError
from bwlab.generation.diffusers_pipelines import pipeline_for
from bwlab.generation.sample import generate
from bwlab.generation.samplers import DEFAULT_SAMPLER, SAMPLERS, new_scheduler, sampler_named


def with_scheduler(pipe: StableDiffusionPipeline, scheduler: object) -> StableDiffusionPipeline:
    with quiet_libraries():
        parts = {**pipe.components, "scheduler": scheduler, "safety_checker": None}
        return StableDiffusionPipeline(**parts, requires_safety_checker=False)


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_noise_schedule_is_the_bases(pipe: StableDiffusionPipeline, name: str, prediction: str) -> None:
    saved = PNDMScheduler(beta_start=0.001, beta_end=0.013, prediction_type=prediction, steps_offset=1)
    scheduler = new_scheduler(name, with_scheduler(pipe, saved))
    assert type(scheduler).__name__ == SAMPLERS[name].scheduler
    assert scheduler.config.prediction_type == prediction
    assert torch.equal(scheduler.alphas_cumprod, saved.alphas_cumprod)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_every_sampler_generates_and_warns_nothing(
    pipe: StableDiffusionPipeline, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = pipe.scheduler
    (image,) = generate(pipe, ["fox"], [1], steps=3, sampler=name)
    assert image.size == (32, 32)
    assert pipe.scheduler is before
    assert capfd.readouterr() == ("", "")


def test_the_default_is_dpmpp_2m_with_karras_sigmas(pipe: StableDiffusionPipeline) -> None:
    scheduler = pipeline_for(with_scheduler(pipe, DDIMScheduler(clip_sample=False)), DEFAULT_SAMPLER).scheduler
    assert isinstance(scheduler, DPMSolverMultistepScheduler)
    assert scheduler.config.algorithm_type == "dpmsolver++"
    assert scheduler.config.solver_order == 2
    scheduler.set_timesteps(5)
    rho = scheduler.sigmas[:5] ** (1 / 7)
    # Karras et al. 2022, equation 5: sigma^(1/7) falls in equal steps.
    assert torch.allclose(rho.diff(), rho.diff().mean().expand(4), atol=1e-4)


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("spread", ["use_beta_sigmas", "use_exponential_sigmas", "use_karras_sigmas"])
def test_the_noise_of_the_steps_is_the_samplers(pipe: StableDiffusionPipeline, name: str, spread: str) -> None:
    own = {"use_karras_sigmas": False} | {spread: True}
    saved = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, **own)
    found, usual = (new_scheduler(name, base) for base in (with_scheduler(pipe, saved), pipe))
    for scheduler in (found, usual):
        scheduler.set_timesteps(7)
    assert torch.equal(found.timesteps, usual.timesteps)
    if hasattr(usual, "sigmas"):
        assert torch.equal(found.sigmas, usual.sigmas)


@pytest.mark.parametrize("edm", [EDMDPMSolverMultistepScheduler, EDMEulerScheduler])
def test_a_base_of_other_noise_is_neither_sampled_nor_trained(pipe: StableDiffusionPipeline, edm: type) -> None:
    base = with_scheduler(pipe, edm())
    with pytest.raises(BwlabError, match=r"noise by EDM \(sigma_data = 0.5\), which bwlab neither trains nor samples"):
        generate(base, ["fox"], [1], steps=1)
    with pytest.raises(BwlabError, match="noise by EDM"):
        noise_process(base)


def test_an_unknown_sampler_is_refused(pipe: StableDiffusionPipeline) -> None:
    with pytest.raises(BwlabError, match=r"dpmpp_2m_karras, euler, euler_a, ddim, unipc"):
        generate(pipe, ["fox"], [1], sampler="plms")
    for name, near in (("Euler", "euler"), ("dpm++_2m_karras", "dpmpp_2m_karras"), ("uni_pc", "unipc")):
        with pytest.raises(BwlabError, match=f"Did you mean {near}"):
            sampler_named(name)
