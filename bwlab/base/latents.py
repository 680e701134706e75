"""Images as latents of a base's autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

IMAGES_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Posterior:
    """The normal distribution of an image's latents, or those of several images, scaled as the denoiser expects them.

    Attributes:
        mean: `([images,] channels, h, w)`.
        deviation: standard deviation, the same shape.

    """

    mean: Tensor
    deviation: Tensor


@torch.no_grad()
def encode_images(vae: AutoencoderKL, images: Tensor, at_once: int = IMAGES_AT_ONCE) -> Posterior:
    """Return the posteriors of images, on the device of the autoencoder.

    The autoencoder's latents `z` become `(z - shift_factor) * scaling_factor`, as diffusers' pipelines scale them
    (Rombach et al. 2022, arXiv 2112.10752, appendix G: to unit variance); some autoencoders have a mean and a standard
    deviation for each channel, and `(z - mean) / deviation * scaling_factor`. An autoencoder of videos gets each image
    as a video of one frame.

    Args:
        vae: the autoencoder.
        images: `(images, 3, height, width)` in -1..1.
        at_once: number of images in a batch. It shows in the last bits of the latents.

    """
    batches = images.to(vae.device, vae.dtype).split(at_once)
    frames = encodes_videos(vae)
    posteriors = [vae.encode(batch.unsqueeze(2) if frames else batch).latent_dist for batch in batches]
    mean, deviation = (
        torch.cat([values.squeeze(2) if frames else values for values in parts])
        for parts in zip(*((posterior.mean, posterior.std) for posterior in posteriors), strict=True)
    )
    shift, scale = (mean.new_tensor(values).view(-1, 1, 1) for values in (latent_shift(vae), latent_scale(vae)))
    return Posterior((mean - shift) * scale, deviation * scale)


def latent_shift(vae: AutoencoderKL) -> tuple[float, ...]:
    """Return what is subtracted from an autoencoder's latents, 0 for most: one number, or one for each channel."""
    means = vae.config.get("latents_mean")
    return tuple(map(float, means)) if means else (float(vae.config.get("shift_factor") or 0.0),)


def latent_scale(vae: AutoencoderKL) -> tuple[float, ...]:
    """Return the factor that brings an autoencoder's latents to about unit variance: one, or one for each channel."""
    deviations = vae.config.get("latents_std")
    factor = float(vae.config.get("scaling_factor") or 1.0)
    return tuple(factor / float(value) for value in deviations) if deviations else (factor,)


def latent_channels(vae: AutoencoderKL) -> int:
    """Return the number of channels of an autoencoder's latents."""
    channels = vae.config.get("latent_channels")
    return int(vae.config.z_dim if channels is None else channels)


def encodes_videos(vae: AutoencoderKL) -> bool:
    """Return whether an autoencoder takes videos `(batch, 3, frames, h, w)` rather than images."""
    return "temperal_downsample" in vae.config  # diffusers' spelling
