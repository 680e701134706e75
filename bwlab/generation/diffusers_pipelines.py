"""diffusers pipelines that use the models of a base: one for each task, with a chosen sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bwlab.base.families.family import ModelFamily, PipelineClasses, Task
from bwlab.base.latents import encode_images
from bwlab.base.models import denoiser_of, family_of
from bwlab.base.quiet import quiet_libraries
from bwlab.dataset.buckets import base_size, require_side
from bwlab.errors import BwlabError
from bwlab.generation.samplers import new_scheduler

if TYPE_CHECKING:
    from diffusers import ControlNetModel

    from bwlab.base.architectures import Pipeline
    from bwlab.generation.img2img import InitImage


def pipeline_for(pipe: Pipeline, sampler: str, task: Task = "text", controlnet: ControlNetModel | None = None) -> Any:
    """Return a pipeline with the same models for a task, with another sampler; the given pipeline keeps its sampler.

    Args:
        pipe: the base.
        sampler: name of the sampler.
        task: `"text"`: from noise; `"image"`: from an init image; `"inpaint"`: from an init image with a mask.
        controlnet: a ControlNet, or None.

    """
    family = family_of(pipe)
    components = {**pipe.components, "scheduler": new_scheduler(sampler, pipe)}
    classes = family.classes
    if controlnet is not None:
        classes = _controlnet_classes(family)
        components["controlnet"] = controlnet
    kind = classes.of(task)
    if not kind:
        raise BwlabError(f"--image with {family.label}", "diffusers has no such pipeline", "Leave it out")
    settings = family.pipeline_options(pipe)
    components = {name: model for name, model in components.items() if name not in settings}
    with quiet_libraries():
        pipeline = family.pipeline_class(kind)(**components, **settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _controlnet_classes(family: ModelFamily) -> PipelineClasses:
    if family.controlnet_classes is None:
        raise BwlabError(f"--controlnet with {family.label}", "bwlab has no ControlNet for it", "Leave it out")
    return family.controlnet_classes


def generated_size(
    pipe: Pipeline,
    width: int | None = None,
    height: int | None = None,
    names: tuple[str, str] = ("--width ", "--height "),
) -> tuple[int, int]:
    """Return the width and height of the images to generate.

    Args:
        pipe: the base.
        width: in pixels; None: the side of the images that the base was made for.
        height: likewise.
        names: what messages write before the two.

    Raises:
        BwlabError: a side is no multiple of what the base divides images into, or longer than it takes.

    """
    base = base_size(pipe)
    for name, value in zip(names, (width, height), strict=True):
        if value is not None:
            require_side(f"{name}{value}", value, base)
    return (width or base.side, height or base.side)


def needs_own_mask(pipe: Pipeline) -> bool:
    """Return whether diffusers' inpainting pipelines refuse this base's denoiser."""
    return denoiser_of(pipe).config.get("in_channels") not in family_of(pipe).inpainting_channels


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
        family = family_of(pipeline)
        self.latents: Tensor = family.sampled(latents.expand(len(seeds), *latents.shape[1:]))
        draws = [torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        self.noise = family.sampled(torch.stack(draws).to(latents))
        mask = pipeline.image_processor.pil_to_numpy(init_image.mask.resize((latents.shape[3], latents.shape[2])))
        whole = torch.from_numpy(mask).to(latents).reshape(1, 1, *latents.shape[2:]).round()
        self.mask = family.sampled(whole.expand(1, *latents.shape[1:]))

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Return latents after the step, as the pipeline holds them, with the init image's latents outside the mask."""
        steps = self.scheduler.timesteps
        index = int((steps == timestep).nonzero()[-1]) + 1
        outside = self.latents
        if index < len(steps):
            add_noise = getattr(self.scheduler, "scale_noise", None)  # of flow matching
            outside = (
                self.scheduler.add_noise(self.latents, self.noise, steps[index : index + 1])
                if add_noise is None
                else add_noise(self.latents, steps[index : index + 1], self.noise)
            )
        return (self.mask * latents + (1 - self.mask) * outside).to(latents.dtype)
