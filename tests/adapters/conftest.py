"""A small UNet with Stable Diffusion 1.x's blocks, and specs for it."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel

from bwlab.blocks.families import scheme_for
from bwlab.blocks.scheme import BlockScheme


@pytest.fixture(scope="session")
def unet() -> UNet2DConditionModel:
    """4-1-4 blocks with two layers each, 16 x 16 latents; untrained, frozen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(8, 12, 16, 20),
            layers_per_block=2,
            cross_attention_dim=24,
            attention_head_dim=4,
            norm_num_groups=4,
        )
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def scheme(unet: UNet2DConditionModel) -> BlockScheme:
    """Return the block scheme of `unet`."""
    return scheme_for(dict(unet.config))
