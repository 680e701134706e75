"""The tiny bases, loaded, and small data folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from bwlab.base.load import load_base
from tests.dataset.small_data import own_cache, two_images, write_data

__all__ = ["own_cache", "two_images", "write_data"]


@pytest.fixture(scope="session")
def pipe(tiny_pipeline: Path) -> StableDiffusionPipeline:
    """Return the tiny base: 32 px images, latents of 1/4."""
    return load_base(tiny_pipeline)


@pytest.fixture(scope="session")
def xl_pipe(tiny_xl_pipeline: Path) -> StableDiffusionXLPipeline:
    """Return the tiny SDXL base."""
    return load_base(tiny_xl_pipeline)
