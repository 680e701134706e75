"""Inpainting for bases that diffusers' inpainting pipelines refuse: those whose latents have not four channels.

As there, image-to-image runs on the whole picture, and after each step everything outside the mask is put back to the
picture with as much noise as belongs to that step (the blending of RePaint's simplest form, Lugmayr et al.,
arXiv 2201.09865, section 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from bwlab.generation.start import Start
    from bwlab.pipelines import Pipeline

DIFFUSERS_CHANNELS = (4, 9)  # of UNets that its inpainting pipelines take


def needs_own_mask(pipe: Pipeline) -> bool:
    """Return whether diffusers' inpainting pipelines refuse this base's UNet."""
    return pipe.unet.config.in_channels not in DIFFUSERS_CHANNELS


class KeptOutside:
    """Puts latents outside a mask back to the picture, at the noise of the step that comes next.

    Args:
        painter: an image-to-image pipeline.
        start: with a mask.
        seeds: of the batch's pictures; each one's noise comes from a generator of its own.
    """

    def __init__(self, painter: Any, start: Start, seeds: Sequence[int]) -> None:
        assert start.mask is not None
        self.scheduler = painter.scheduler
        with torch.no_grad():
            picture = painter.image_processor.preprocess(start.image).to(painter.device, painter.vae.dtype)
            latents = painter.vae.encode(picture).latent_dist.mode() * painter.vae.config.scaling_factor
        self.latents: Tensor = latents.expand(len(seeds), *latents.shape[1:])
        draws = [torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        self.noise = torch.stack(draws).to(latents)
        mask = painter.image_processor.pil_to_numpy(start.mask.resize(latents.shape[:1:-1]))
        self.mask = torch.from_numpy(mask).to(latents).reshape(1, 1, *latents.shape[2:]).round()

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Return latents `(batch, channels, h, w)` after the step at `timestep`, outside the mask the picture's."""
        steps = self.scheduler.timesteps
        place = int((steps == timestep).nonzero()[-1]) + 1
        outside = self.latents
        if place < len(steps):
            outside = self.scheduler.add_noise(self.latents, self.noise, steps[place : place + 1])
        return (self.mask * latents + (1 - self.mask) * outside).to(latents.dtype)
