"""What the UNet learns to predict.

Source: DDPM (Ho et al. 2020), equation 14, with the targets of Salimans and Ho (2022), appendix D, for v-prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from bwlab.errors import BwlabError
from bwlab.training.training_set import TrainingSet

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, StableDiffusionPipeline

TARGETS = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True)
class Batch:
    """What one step learns from.

    Attributes:
        examples: indices into the training set.
        latents: ``(batch, channels, h, w)`` clean.
        noise: what was added, the same shape.
        timesteps: ``(batch,)`` int64.
        noisy: latents at those timesteps.
        context: ``(batch, tokens, width)`` text embeddings.
        target: what the prediction is compared with, shaped as ``latents``.
    """

    examples: tuple[int, ...]
    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    noisy: Tensor
    context: Tensor
    target: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return what plugins see, by the names of the hook ``bwlab_extra_losses``."""
        return {
            "latents": self.latents,
            "noise": self.noise,
            "timesteps": self.timesteps,
            "text": self.context,
            "noisy": self.noisy,
            "target": self.target,
        }


def noise_schedule(pipe: StableDiffusionPipeline) -> DDPMScheduler:
    """Return the schedule the base was trained with; BwlabError if its prediction type is not known."""
    from diffusers import DDPMScheduler

    kind = pipe.scheduler.config.get("prediction_type", "epsilon")
    if kind not in TARGETS:
        raise BwlabError("the base's scheduler", f"prediction_type {kind!r}", f"Use a base with {', '.join(TARGETS)}")
    return DDPMScheduler.from_config(pipe.scheduler.config)


def training_target(schedule: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return what the UNet should predict: the noise, the velocity or the clean latents."""
    kind = schedule.config.prediction_type
    if kind == "v_prediction":
        velocity: Tensor = schedule.get_velocity(latents, noise, timesteps)
        return velocity
    return noise if kind == "epsilon" else latents


def draw_batch(
    data: TrainingSet, indices: Sequence[int], schedule: DDPMScheduler, generator: torch.Generator, device: torch.device
) -> Batch:
    """Return one step's batch; everything random is drawn on the CPU, so that every device sees the same."""
    chosen = torch.tensor(indices)
    means = data.means[chosen]
    latents = means + data.deviations[chosen] * torch.randn(means.shape, generator=generator)
    noise = torch.randn(means.shape, generator=generator)
    timesteps = torch.randint(schedule.config.num_train_timesteps, (len(chosen),), generator=generator)
    return Batch(
        tuple(indices),
        latents.to(device),
        noise.to(device),
        timesteps.to(device),
        schedule.add_noise(latents, noise, timesteps).to(device),
        data.contexts[data.caption_of[chosen]].to(device),
        training_target(schedule, latents, noise, timesteps).to(device),
    )


def prediction_loss(prediction: Tensor, batch: Batch) -> Tensor:
    """Return the mean squared error of a prediction, a scalar in float32."""
    return functional.mse_loss(prediction.float(), batch.target.float())
