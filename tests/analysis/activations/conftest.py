"""A tiny base with two adapters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from bwlab.adapters.adapter import Adapter
from bwlab.base.load import load_base
from bwlab.blocks.scheme import BlockScheme
from bwlab_analysis.activations.inputs import Inputs
from tests.analysis.random_adapters import random_adapter


@dataclass(frozen=True, eq=False)
class World:
    """A random base, an adapter on every block and one on two."""

    pipe: StableDiffusionPipeline
    scheme: BlockScheme
    a: Adapter
    b: Adapter
    inputs: Inputs


@pytest.fixture(scope="session")
def world(tiny_pipeline: Path) -> World:
    pipe = load_base(tiny_pipeline)
    a, b = random_adapter(pipe.unet, "lora", "all=2", 1), random_adapter(pipe.unet, "locon", "in0=3, out3=3", 2)
    generator = torch.Generator().manual_seed(3)
    latents, noise = torch.randn(3, 4, 8, 8, generator=generator), torch.randn(3, 4, 8, 8, generator=generator)
    return World(
        pipe, a.scheme, a, b, Inputs(latents, noise, ("a fox", "ink", "a fox, ink"), "random numbers", (0, 1, 2))
    )
