"""diffusers' pipelines over the models of a base: one for each way to start, with the sampler that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import diffusers

from bwlab.conditioning import text_encoders
from bwlab.generation.samplers import new_scheduler
from bwlab.pipelines import quiet_libraries

if TYPE_CHECKING:
    from bwlab.pipelines import Pipeline

Task: TypeAlias = Literal["text", "image", "inpaint"]

# (one text encoder, SDXL's two) -> diffusers' class
CLASSES: Mapping[Task, tuple[str, str]] = {
    "text": ("StableDiffusionPipeline", "StableDiffusionXLPipeline"),
    "image": ("StableDiffusionImg2ImgPipeline", "StableDiffusionXLImg2ImgPipeline"),
    "inpaint": ("StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline"),
}


def painter_for(pipe: Pipeline, sampler: str, task: Task = "text") -> Any:
    """Return a pipeline of the same models for a task, with another sampler; the given one keeps its own.

    Args:
        pipe: the base.
        sampler: its name.
        task: `"text"`: from noise; `"image"`: from a picture; `"inpaint"`: from a picture with a mask.
    """
    double = len(text_encoders(pipe)) == 2
    components = {**pipe.components, "scheduler": new_scheduler(sampler, pipe)}
    if double:
        zeros = pipe.config.force_zeros_for_empty_prompt
        settings: dict[str, object] = {"force_zeros_for_empty_prompt": zeros, "add_watermarker": False}
    else:
        components["safety_checker"] = None
        settings = {"requires_safety_checker": False}
    with quiet_libraries():
        painter = getattr(diffusers, CLASSES[task][int(double)])(**components, **settings)
    painter.set_progress_bar_config(disable=True)
    return painter
