"""diffusers' pipelines over the models of a base: one for each way to start, with the sampler that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import diffusers

from bwlab.conditioning import text_encoders
from bwlab.generation.samplers import new_scheduler
from bwlab.pipelines import quiet_libraries

if TYPE_CHECKING:
    from diffusers import ControlNetModel

    from bwlab.pipelines import Pipeline

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


def painter_for(pipe: Pipeline, sampler: str, task: Task = "text", controlnet: ControlNetModel | None = None) -> Any:
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
