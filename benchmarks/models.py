"""The UNets that are measured: exact architectures with random weights, so that nothing is downloaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from bwlab.blocks.configs import SD14, SD21, SDXL, DenoiserConfig, meta_unet

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

TINY: DenoiserConfig = dict(SD14) | {
    "block_out_channels": (8, 12, 16, 20),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
    "sample_size": 8,
}
# SD 1.4 at a quarter of its widths, where a step of the whole model takes too long.
NARROW: DenoiserConfig = dict(SD14) | {"block_out_channels": (80, 160, 320, 320), "norm_num_groups": 16}
MODELS: Mapping[str, DenoiserConfig] = {"sd14": SD14, "sd21": SD21, "sdxl": SDXL, "narrow": NARROW, "tiny": TINY}
TOKENS = 77


def random_unet(config: DenoiserConfig, seed: int = 0) -> UNet2DConditionModel:
    """Return a frozen UNet of this config in evaluation mode, float32, on the CPU.

    Weights are normal with deviation 1 / sqrt(inputs), biases 0 and norms 1: activations keep a natural size, and
    drawing them takes seconds, where the layers' own initialisation takes a minute.
    """
    unet = meta_unet(config).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in unet.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if name == "bias":
                    parameter.zero_()
                elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
                    parameter.fill_(1)
                else:
                    parameter.normal_(0, 1 / math.sqrt(parameter[0].numel()), generator=generator)
    unet.eval().requires_grad_(False)
    return unet


def unet_inputs(
    config: DenoiserConfig, latents: int, batch: int, dtype: torch.dtype, seed: int = 1
) -> dict[str, object]:
    """Return the arguments of a forward pass: noisy latents `(batch, channels, latents, latents)`, timesteps, text."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    arguments: dict[str, object] = {
        "sample": draw(batch, int(str(config["in_channels"])), latents, latents),
        "timestep": torch.randint(1000, (batch,), generator=generator),
        "encoder_hidden_states": draw(batch, TOKENS, int(str(config["cross_attention_dim"]))),
        "return_dict": False,
    }
    if config.get("addition_embed_type") == "text_time":
        pooled = draw(batch, 1280)
        arguments["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": torch.full((batch, 6), 512.0)}
    return arguments
