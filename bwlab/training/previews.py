"""Pictures at fixed prompts and seeds while the adapter learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.formats.folders import make_folder
from bwlab.generation.png import write_png
from bwlab.generation.sample import generate
from bwlab.training.config import PreviewConfig

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

DEFAULT_PROMPTS = 2


def preview_prompts(config: PreviewConfig, captions: list[str]) -> tuple[str, ...]:
    """Return the prompts to show: the given ones, else the first two different captions."""
    if not config.enabled:
        return ()
    return config.prompts or tuple(captions[:DEFAULT_PROMPTS])


def paint_previews(
    pipe: StableDiffusionPipeline, config: PreviewConfig, prompts: tuple[str, ...], place: Callable[[int], Path]
) -> list[Path]:
    """Paint each prompt with what is attached to the pipeline, write PNGs where ``place`` says, return their paths."""
    images = generate(
        pipe,
        list(prompts),
        [config.seed + index for index in range(len(prompts))],
        (),
        steps=config.steps,
        cfg=config.cfg,
        negative=config.negative,
    )
    paths = [place(index) for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        make_folder(path.parent)
        write_png(path, image, overwrite=True)
    return paths
