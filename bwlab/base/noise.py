"""How noise is added to latents, and what a denoiser learns to predict: by diffusion (DDPM) or by flow matching.

A base's times run from 0, the image, to 1000, pure noise, as its denoiser gets them. Samplers, which step along
them, are in `bwlab.generation.samplers`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

from bwlab.base.models import family_of
from bwlab.base.noise_schedule import fixed_shift, is_flow, require_known_noise
from bwlab.base.prediction import EPSILON, VELOCITY
from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

    from bwlab.base.architectures import Pipeline

TimeSampling: TypeAlias = Literal["auto", "uniform", "logit_normal"]

TIMES = 1000
TRAINABLE = (EPSILON, VELOCITY, "sample")


class NoiseProcess(ABC):
    """The noise that a base was trained with."""

    @abstractmethod
    def sample_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Return random times for training, `(count,)`, from a generator on the CPU."""

    @abstractmethod
    def add_noise(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return noisy latents, shaped as `latents` `(batch, channels, h, w)`; `times` is `(batch,)`."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return what the denoiser should predict, shaped as `latents`."""

    @abstractmethod
    def min_snr_weights(self, times: Tensor, gamma: float) -> Tensor:
        """Return the weight of the loss at each time, `(batch,)`, with the signal-to-noise ratio capped at `gamma`.

        Raises:
            BwlabError: such weights are not defined for this process.

        """


@dataclass(frozen=True, eq=False)
class Diffusion(NoiseProcess):
    """DDPM (Ho et al. 2020), with a prediction of noise, velocity or clean latents.

    Attributes:
        schedule: the noise schedule of the base.

    """

    schedule: DDPMScheduler

    def sample_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Return whole times, uniformly distributed."""
        return torch.randint(self.schedule.config.num_train_timesteps, (count,), generator=generator)

    def add_noise(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return `sqrt(kept) * latents + sqrt(1 - kept) * noise`."""
        noisy: Tensor = self.schedule.add_noise(latents, noise, times)
        return noisy

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return the noise, the velocity (Salimans and Ho 2022, appendix D) or the clean latents."""
        kind = self.schedule.config.prediction_type
        if kind == VELOCITY:
            velocity: Tensor = self.schedule.get_velocity(latents, noise, times)
            return velocity
        return noise if kind == EPSILON else latents

    def min_snr_weights(self, times: Tensor, gamma: float) -> Tensor:
        """Return the weights of Hang et al. (arXiv 2303.09556, section 3.4); see `min_snr_weights`."""
        snr = signal_to_noise(self.schedule.alphas_cumprod, times)
        return min_snr_weights(snr, gamma, self.schedule.config.prediction_type)


@dataclass(frozen=True)
class FlowMatching(NoiseProcess):
    """Straight paths from latents to noise (Esser et al., arXiv 2403.03206): `x_t = (1 - t) x + t noise`.

    Attributes:
        shift: how far times are moved towards noise, `t' = shift t / (1 + (shift - 1) t)` (equation 23); above 0.
        sampling: how training draws t: `logit_normal` (section 3.1, mean 0 and deviation 1) or `uniform`.

    """

    shift: float = 1.0
    sampling: TimeSampling = "logit_normal"

    def sample_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Return times in 0..1000, float32."""
        if self.sampling == "uniform":
            times = torch.rand(count, generator=generator)
        else:
            times = torch.randn(count, generator=generator).sigmoid()
        return TIMES * (self.shift * times / (1 + (self.shift - 1) * times))

    def add_noise(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return `(1 - t) * latents + t * noise`."""
        share = (times.to(latents.dtype) / TIMES).view(-1, *(1,) * (latents.dim() - 1))
        return (1 - share) * latents + share * noise

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return the direction of the path, `noise - latents`."""
        return noise - latents

    def min_snr_weights(self, times: Tensor, gamma: float) -> Tensor:
        """Raise `BwlabError`: the weights are made for diffusion."""
        raise BwlabError(
            f"training.min_snr_gamma = {gamma:g}",
            "the base is trained by flow matching, whose loss has no such weights",
            "Leave it out",
        )


def noise_process(
    pipe: Pipeline, sampling: TimeSampling = "auto", shift: float | None = None
) -> Diffusion | FlowMatching:
    """Return how noise is added for a base, by the prediction type or the class of its scheduler.

    Args:
        pipe: the base.
        sampling: how training draws times; `auto`: as the base was trained, uniformly by diffusion and logit-normally
            by flow matching.
        shift: shift of flow matching; None: that of the base's scheduler.

    Raises:
        BwlabError: the scheduler or its prediction type is unknown, or a setting belongs to the other process.

    """
    from diffusers import DDPMScheduler

    config = pipe.scheduler.config
    require_known_noise(config)
    if is_flow(config):
        own = base_shift(pipe) if shift is None else shift
        return FlowMatching(own, "logit_normal" if sampling == "auto" else sampling)
    for key, value in (("timestep_sampling", sampling), ("timestep_shift", shift)):
        if value not in ("auto", "uniform", None):
            found = "the base is trained by diffusion, which draws timesteps uniformly"
            raise BwlabError(f"training.{key} = {value}", found, "Leave it out")
    kind = config.get("prediction_type", EPSILON)
    if kind not in TRAINABLE:
        fix = f"Use a base with {', '.join(TRAINABLE)}"
        raise BwlabError("the base's scheduler", f"prediction_type {kind!r}", fix)
    return Diffusion(DDPMScheduler.from_config(config))


def base_shift(pipe: Pipeline) -> float:
    """Return the shift of a base's flow matching: fixed, or what its scheduler gives for images of the base's size.

    FLUX interpolates the logarithm of the shift between two numbers of tokens (diffusers' `calculate_shift`).
    """
    config = pipe.scheduler.config
    if not config.get("use_dynamic_shifting"):
        return fixed_shift(config)
    family = family_of(pipe)
    tokens = (family.base_side(pipe) // family.size_step(pipe)) ** 2
    least, most = float(config.get("base_image_seq_len", 256)), float(config.get("max_image_seq_len", 4096))
    low, high = float(config.get("base_shift", 0.5)), float(config.get("max_shift", 1.15))
    return math.exp(low + (high - low) * (tokens - least) / (most - least))


def signal_to_noise(alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """Return the signal-to-noise ratio `alpha^2 / sigma^2` at timesteps, `(batch,)` float64, 0 for pure noise."""
    kept = alphas_cumprod.double().cpu()[timesteps.cpu()]
    return kept / (1 - kept)


def min_snr_weights(snr: Tensor, gamma: float, target: str) -> Tensor:
    """Return the weight of each example's loss, `(batch,)`.

    The weight of the loss on clean latents is `min(snr, gamma)`; on the noise that is divided by `snr`, on the
    velocity by `snr + 1`, as their errors are that much greater (Hang et al., arXiv 2303.09556, section 3.4).

    Args:
        snr: signal-to-noise ratios, 0 or more.
        gamma: the cap.
        target: `epsilon`, `v_prediction` or `sample`.

    """
    capped = snr.clamp(max=gamma)
    if target == "sample":
        return capped
    if target == "v_prediction":
        return capped / (snr + 1)
    # min(snr, gamma) / snr, written so that a ratio of 0 (zero terminal SNR) gives its limit 1.
    return torch.clamp(gamma / snr, max=1.0)
