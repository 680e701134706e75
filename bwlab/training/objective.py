"""The training objective: noisy batches, the target of the prediction, and the loss (DDPM, Ho et al. 2020, eq. 14)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bwlab.base.families.family import TextBatch
from bwlab.base.noise import NoiseProcess
from bwlab.dataset.training_set import SampledBatch


@dataclass(frozen=True)
class NoisyBatch:
    """Examples with noise, on which a prediction is trained.

    Attributes:
        examples: indices of the examples in the training set.
        captions: caption of each example.
        latents: clean latents, `(batch, channels, h, w)`.
        noise: noise that was added, the same shape.
        timesteps: time of each example, `(batch,)`: int64 by diffusion, float32 in 0..1000 by flow matching.
        noisy: latents with the noise of those timesteps, shaped as `latents`.
        target: target of the prediction, shaped as `latents`.
        weights: weight of each example's loss, `(batch,)`.
        sizes: `(batch, 6)` time ids, on which SDXL is conditioned.

    """

    examples: tuple[int, ...]
    captions: tuple[str, ...]
    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    noisy: Tensor
    target: Tensor
    weights: Tensor
    sizes: Tensor

    def tensors(self, text: TextBatch) -> dict[str, Tensor]:
        """Return the tensors that the hook `bwlab_extra_losses` gets, by name."""
        return {
            "latents": self.latents,
            "noise": self.noise,
            "timesteps": self.timesteps,
            "text": text.context,
            "noisy": self.noisy,
            "target": self.target,
        }

    def rows(self, rows: slice) -> NoisyBatch:
        """Return a part of the batch."""
        parts: dict[str, Any] = {name: value[rows] for name, value in vars(self).items()}
        return replace(self, **parts)

    def to(self, device: torch.device) -> NoisyBatch:
        """Return the batch with its tensors on a device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def noisy_batch(
    sampled: SampledBatch,
    process: NoiseProcess,
    generator: torch.Generator,
    *,
    offset: float = 0.0,
    gamma: float | None = None,
) -> NoisyBatch:
    """Return sampled examples with noise; all random numbers come from the CPU, so that every device gets the same.

    Args:
        sampled: the examples.
        process: how noise is added and what is predicted.
        generator: a generator on the CPU.
        offset: strength of added noise that is constant over each channel.
        gamma: cap of the loss weights by signal-to-noise ratio; None leaves the weights of the examples.

    """
    shape = sampled.means.shape
    latents = sampled.means + sampled.deviations * torch.randn(shape, generator=generator)
    noise = torch.randn(shape, generator=generator)
    timesteps = process.sample_times(shape[0], generator)
    if offset:
        noise = noise + offset * torch.randn(*shape[:2], 1, 1, generator=generator)
    weights = sampled.weights.float()
    if gamma is not None:
        weights = weights * process.min_snr_weights(timesteps, gamma).float()
    return NoisyBatch(
        sampled.indices,
        sampled.captions,
        latents,
        noise,
        timesteps,
        process.add_noise(latents, noise, timesteps),
        process.target(latents, noise, timesteps),
        weights,
        sampled.sizes,
    )


def prediction_loss(prediction: Tensor, batch: NoisyBatch) -> Tensor:
    """Return the mean squared error of a prediction, a scalar in float32; weighted by example."""
    errors = (prediction.float() - batch.target.float()).square().mean(dim=(1, 2, 3))
    return (errors * batch.weights).mean()
