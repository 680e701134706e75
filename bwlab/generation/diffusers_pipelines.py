"""diffusers pipelines that use the models of a base: one for each task, with a chosen sampler."""

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
PIPELINE_CLASSES: Mapping[Task, tuple[str, str]] = {
    "text": ("StableDiffusionPipeline", "StableDiffusionXLPipeline"),
    "image": ("StableDiffusionImg2ImgPipeline", "StableDiffusionXLImg2ImgPipeline"),
    "inpaint": ("StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline"),
}
CONTROLNET_CLASSES: Mapping[Task, tuple[str, str]] = {
    "text": ("StableDiffusionControlNetPipeline", "StableDiffusionXLControlNetPipeline"),
    "image": ("StableDiffusionControlNetImg2ImgPipeline", "StableDiffusionXLControlNetImg2ImgPipeline"),
    "inpaint": ("StableDiffusionControlNetInpaintPipeline", "StableDiffusionXLControlNetInpaintPipeline"),
}

INPAINTING_CHANNELS = (4, 9)  # input channels of the UNets that diffusers' inpainting pipelines take


def pipeline_for(pipe: Pipeline, sampler: str, task: Task = "text", controlnet: ControlNetModel | None = None) -> Any:
    """Return a pipeline with the same models for a task, with another sampler; the given pipeline keeps its sampler.

    Args:
        pipe: the base.
        sampler: name of the sampler.
        task: `"text"`: from noise; `"image"`: from an init image; `"inpaint"`: from an init image with a mask.
        controlnet: a ControlNet, or None.

    """
    double = len(text_encoders(pipe)) == 2
    components = {**pipe.components, "scheduler": new_scheduler(sampler, pipe)}
    classes = PIPELINE_CLASSES
    if controlnet is not None:
        components, classes = {**components, "controlnet": controlnet}, CONTROLNET_CLASSES
    if double:
        zeros = pipe.config.force_zeros_for_empty_prompt
        settings: dict[str, object] = {"force_zeros_for_empty_prompt": zeros, "add_watermarker": False}
    else:
        components["safety_checker"] = None
        settings = {"requires_safety_checker": False}
    with quiet_libraries():
        pipeline = getattr(diffusers, classes[task][int(double)])(**components, **settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def needs_own_mask(pipe: Pipeline) -> bool:
    """Return whether diffusers' inpainting pipelines refuse this base's UNet."""
    return pipe.unet.config.in_channels not in INPAINTING_CHANNELS


class KeptOutside:
    """Replace latents outside a mask by the latents of the init image, at the noise level of the next step.

    Args:
        pipeline: an image-to-image pipeline.
        init_image: an init image with a mask.
        seeds: seeds of the batch's images; the noise of each image comes from a separate generator.

    """

    def __init__(self, pipeline: Any, init_image: InitImage, seeds: Sequence[int]) -> None:
        assert init_image.mask is not None
        self.scheduler = pipeline.scheduler
        latents = encode_images(pipeline.vae, pipeline.image_processor.preprocess(init_image.image)).mean
        self.latents: Tensor = latents.expand(len(seeds), *latents.shape[1:])
        draws = [torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        self.noise = torch.stack(draws).to(latents)
        mask = pipeline.image_processor.pil_to_numpy(init_image.mask.resize((latents.shape[3], latents.shape[2])))
        self.mask = torch.from_numpy(mask).to(latents).reshape(1, 1, *latents.shape[2:]).round()

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Return latents `(batch, channels, h, w)` after the step, with the init image's latents outside the mask."""
        steps = self.scheduler.timesteps
        index = int((steps == timestep).nonzero()[-1]) + 1
        outside = self.latents
        if index < len(steps):
            outside = self.scheduler.add_noise(self.latents, self.noise, steps[index : index + 1])
        return (self.mask * latents + (1 - self.mask) * outside).to(latents.dtype)
