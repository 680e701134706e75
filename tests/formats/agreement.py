"""What a UNet says with an adapter by bwlab's hooks and by diffusers' own loader, and how far apart the two are."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor, nn

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import ScaledAdapter, attach

TOLERANCE = 1e-5

CASES = [
    pytest.param(("lora", "all=4", 4.0), id="lora"),
    pytest.param(("locon", "all=4", 2.0), id="locon"),
    pytest.param(("locon", "upper=4", 1.0), id="upper-only"),
    pytest.param(("locon", "upper=6, mid=2, lower=3, in3=5", 1.5), id="mixed-ranks"),
    pytest.param(("locon", "upper=6, mid=2, lower=3, in3=5", None), id="mixed-alphas"),
    pytest.param(("lora", "out1.1=3, mid=2", None), id="one-pair"),
]


@torch.no_grad()
def predict(unet: UNet2DConditionModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    size, width = int(unet.config["sample_size"]), int(unet.config["cross_attention_dim"])
    latents = torch.randn(2, 4, size, size, generator=generator)
    sample: Tensor = unet(latents, 400, torch.randn(2, 6, width, generator=generator)).sample
    return sample


@torch.no_grad()
def hidden(encoder: nn.Module) -> Tensor:
    """Return what a text encoder makes of five tokens."""
    states: Tensor = encoder(torch.tensor([[512, 5, 7, 9, 513]])).last_hidden_state
    return states


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


def attached_output(unet: UNet2DConditionModel, adapter: Adapter) -> Tensor:
    """Return what the UNet says with the adapter, checked to differ from what it says without."""
    with attach(unet, ScaledAdapter(adapter)):
        ours = predict(unet)
    assert relative_error(predict(unet), ours) > 100 * TOLERANCE
    return ours


def loaded_by_diffusers(unet: UNet2DConditionModel, file: Path) -> UNet2DConditionModel:
    """Return a copy of the UNet with the file as diffusers loads it."""
    is_xl = unet.config["up_block_types"][0] == "CrossAttnUpBlock2D"
    pipeline = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    theirs = copy.deepcopy(unet)
    tensors, alphas, metadata = pipeline.lora_state_dict(str(file), unet_config=unet.config, return_lora_metadata=True)
    theirs.load_lora_adapter(tensors, network_alphas=alphas, prefix="unet", metadata=metadata)
    return theirs
