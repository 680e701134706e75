"""The training objective: noisy batches, the target of the prediction, and the loss.

Sources: DDPM (Ho et al. 2020), equation 14; Salimans and Ho (2022), appendix D, for v-prediction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bwlab.base.conditioning import TextBatch
from bwlab.base.noise_schedule import training_target
from bwlab.dataset.training_set import SampledBatch

if TYPE_CHECKING:
    from diffusers import DDPMScheduler


@dataclass(frozen=True)
class NoisyBatch:
    """Examples with noise, on which a prediction is trained.

    Attributes:
        examples: indices of the examples in the training set.
        captions: caption of each example.
        latents: clean latents, `(batch, channels, h, w)`.
        noise: noise that was added, the same shape.
        timesteps: timestep of each example, `(batch,)` int64.
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
    schedule: DDPMScheduler,
    generator: torch.Generator,
    *,
    offset: float = 0.0,
    gamma: float | None = None,
) -> NoisyBatch:
    """Return sampled examples with noise; all random numbers come from the CPU, so that every device gets the same.

    Args:
        sampled: the examples.
        schedule: the noise schedule.
        generator: a generator on the CPU.
        offset: strength of added noise that is constant over each channel.
        gamma: cap of the loss weights by signal-to-noise ratio; None leaves the weights of the examples.

    """
    shape = sampled.means.shape
    latents = sampled.means + sampled.deviations * torch.randn(shape, generator=generator)
    noise = torch.randn(shape, generator=generator)
    timesteps = torch.randint(schedule.config.num_train_timesteps, (shape[0],), generator=generator)
    if offset:
        noise = noise + offset * torch.randn(*shape[:2], 1, 1, generator=generator)
    weights = sampled.weights.float()
    if gamma is not None:
        snr = signal_to_noise(schedule.alphas_cumprod, timesteps)
        weights = weights * min_snr_weights(snr, gamma, schedule.config.prediction_type).float()
    return NoisyBatch(
        sampled.indices,
        sampled.captions,
        latents,
        noise,
        timesteps,
        schedule.add_noise(latents, noise, timesteps),
        training_target(schedule, latents, noise, timesteps),
        weights,
        sampled.sizes,
    )


def prediction_loss(prediction: Tensor, batch: NoisyBatch) -> Tensor:
    """Return the mean squared error of a prediction, a scalar in float32; weighted by example."""
    errors = (prediction.float() - batch.target.float()).square().mean(dim=(1, 2, 3))
    return (errors * batch.weights).mean()


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
