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
    (Rombach et al. 2022, arXiv 2112.10752, appendix G: to unit variance).

    Args:
        vae: the autoencoder.
        images: `(images, 3, height, width)` in -1..1.
        at_once: number of images in a batch. It shows in the last bits of the latents.

    """
    batches = images.to(vae.device, vae.dtype).split(at_once)
    posteriors = [vae.encode(batch).latent_dist for batch in batches]
    shift, scale = latent_shift(vae), latent_scale(vae)
    mean = (torch.cat([posterior.mean for posterior in posteriors]) - shift) * scale
    return Posterior(mean, torch.cat([posterior.std for posterior in posteriors]) * scale)


def latent_shift(vae: AutoencoderKL) -> float:
    """Return what is subtracted from an autoencoder's latents; 0 for most of them."""
    return float(vae.config.get("shift_factor") or 0.0)


def latent_scale(vae: AutoencoderKL) -> float:
    """Return the factor that brings an autoencoder's latents to about unit variance."""
    return float(vae.config.scaling_factor)
