"""What a training imports, for processes that are forked rather than started."""

import diffusers
import transformers

import bwlab.cli.train
import bwlab.training.run

CLASSES = (
    diffusers.StableDiffusionPipeline,
    diffusers.StableDiffusion3Pipeline,
    transformers.CLIPTextModel,
    transformers.CLIPTextModelWithProjection,
    bwlab.training.run,
    bwlab.cli.train,
)
"""Lazy modules import a class when it is asked for."""
