"""The small UNet that adapters are tested on, one with SDXL's blocks, and the plugins of files."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel

import bwlab.plugins.builtin
import bwlab_locon.plugin
import bwlab_lora.plugin
from bwlab.adapters.adapter import Adapter
from bwlab.blocks.scheme import BlockScheme
from bwlab.plugins.manager import PluginManager, build_manager
from tests.adapters.conftest import scheme, unet
from tests.formats.adapters_made import trained
from tests.formats.agreement import CASES

__all__ = ["adapter", "manager", "scheme", "sdxl_unet", "unet"]


@pytest.fixture(params=CASES)
def adapter(request: pytest.FixtureRequest, unet: UNet2DConditionModel, scheme: BlockScheme) -> Adapter:
    """Of every case that other loaders are compared on, one after the other."""
    return trained(unet, scheme, *request.param)


@pytest.fixture(scope="session")
def sdxl_unet() -> UNet2DConditionModel:
    """SDXL's 3-1-3 blocks with two layers each, 16 x 16 latents, without its extra conditions; untrained, frozen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = UNet2DConditionModel(
            sample_size=16,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(8, 12, 16),
            transformer_layers_per_block=(1, 2, 3),
            layers_per_block=2,
            cross_attention_dim=24,
            attention_head_dim=4,
            norm_num_groups=4,
            use_linear_projection=True,
        )
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def manager() -> PluginManager:
    """Return a manager that knows LoRA and LoCon alone."""
    return build_manager([bwlab_lora.plugin, bwlab_locon.plugin, bwlab.plugins.builtin], installed=False)
