"""diffusers' pipelines over the models of a base: one for each way to start, with the sampler that is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import diffusers
import torch
from torch import Tensor

from bwlab.base.conditioning import text_encoders
from bwlab.base.latents import encode_images
from bwlab.base.quiet import quiet_libraries
from bwlab.generation.samplers import new_scheduler

if TYPE_CHECKING:
    from diffusers import ControlNetModel

    from bwlab.base.architectures import Pipeline
    from bwlab.generation.img2img import InitImage


Task: TypeAlias = Literal["text", "image", "inpaint"]

# (one text encoder, SDXL's two) -> diffusers' class
CLASSES: Mapping[Task, tuple[str, str]] = {
    "text": ("StableDiffusionPipeline", "StableDiffusionXLPipeline"),
    "image": ("StableDiffusionImg2ImgPipeline", "StableDiffusionXLImg2ImgPipeline"),
    "inpaint": ("StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline"),
}
CONTROLLED: Mapping[Task, tuple[str, str]] = {
    "text": ("StableDiffusionControlNetPipeline", "StableDiffusionXLControlNetPipeline"),
    "image": ("StableDiffusionControlNetImg2ImgPipeline", "StableDiffusionXLControlNetImg2ImgPipeline"),
    "inpaint": ("StableDiffusionControlNetInpaintPipeline", "StableDiffusionXLControlNetInpaintPipeline"),
}

DIFFUSERS_CHANNELS = (4, 9)  # of UNets that its inpainting pipelines take


def pipeline_for(pipe: Pipeline, sampler: str, task: Task = "text", controlnet: ControlNetModel | None = None) -> Any:
    """Return a pipeline of the same models for a task, with another sampler; the given one keeps its own.

    Args:
        pipe: the base.
        sampler: its name.
        task: `"text"`: from noise; `"image"`: from a picture; `"inpaint"`: from a picture with a mask.
        controlnet: what else tells the UNet where things go; None: nothing.

    """
    double = len(text_encoders(pipe)) == 2
    components = {**pipe.components, "scheduler": new_scheduler(sampler, pipe)}
    classes = CLASSES
    if controlnet is not None:
        components, classes = {**components, "controlnet": controlnet}, CONTROLLED
    if double:
        zeros = pipe.config.force_zeros_for_empty_prompt
        settings: dict[str, object] = {"force_zeros_for_empty_prompt": zeros, "add_watermarker": False}
    else:
        components["safety_checker"] = None
        settings = {"requires_safety_checker": False}
    with quiet_libraries():
        painter = getattr(diffusers, classes[task][int(double)])(**components, **settings)
    painter.set_progress_bar_config(disable=True)
    return painter


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

    def __init__(self, painter: Any, start: InitImage, seeds: Sequence[int]) -> None:
        assert start.mask is not None
        self.scheduler = painter.scheduler
        latents = encode_images(painter.vae, painter.image_processor.preprocess(start.image)).mean
        self.latents: Tensor = latents.expand(len(seeds), *latents.shape[1:])
        draws = [torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        self.noise = torch.stack(draws).to(latents)
        mask = painter.image_processor.pil_to_numpy(start.mask.resize((latents.shape[3], latents.shape[2])))
        self.mask = torch.from_numpy(mask).to(latents).reshape(1, 1, *latents.shape[2:]).round()

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Return latents `(batch, channels, h, w)` after the step at `timestep`, outside the mask the picture's."""
        steps = self.scheduler.timesteps
        place = int((steps == timestep).nonzero()[-1]) + 1
        outside = self.latents
        if place < len(steps):
            outside = self.scheduler.add_noise(self.latents, self.noise, steps[place : place + 1])
        return (self.mask * latents + (1 - self.mask) * outside).to(latents.dtype)
