"""The denoisers that are measured: exact architectures with random weights, so that nothing is downloaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from bwlab.base.families.flux import TEXT_TOKENS, image_places
from bwlab.base.families.transformer import packed
from bwlab.blocks.configs import SD14, SD21, SDXL, TRANSFORMER_MODELS, DenoiserConfig, meta_denoiser

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
Draw = Callable[..., torch.Tensor]
# FLUX.1 dev at its full width, with 2 of its 19 double and 4 of its 38 single blocks: 1.3 thousand million weights.
FLUX_CUT: DenoiserConfig = dict(TRANSFORMER_MODELS["flux"]) | {"num_layers": 2, "num_single_layers": 4}
TINY_FLUX: DenoiserConfig = dict(FLUX_CUT) | {
    "attention_head_dim": 8,
    "axes_dims_rope": (2, 2, 4),
    "joint_attention_dim": 16,
    "num_attention_heads": 2,
    "pooled_projection_dim": 8,
}
MODELS: Mapping[str, DenoiserConfig] = {
    "sd14": SD14,
    "sd21": SD21,
    "sdxl": SDXL,
    "narrow": NARROW,
    "tiny": TINY,
    "flux-cut": FLUX_CUT,
    "tiny-flux": TINY_FLUX,
}
TOKENS = 77


def random_denoiser(config: DenoiserConfig, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """Return a frozen UNet or transformer of this config in evaluation mode, on the CPU.

    Weights are normal with deviation 1 / sqrt(inputs), biases 0 and norms 1: activations keep a natural size, and
    drawing them takes seconds, where the layers' own initialisation takes a minute.
    """
    denoiser = meta_denoiser({"_class_name": "UNet2DConditionModel", **config}).to(dtype).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in denoiser.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if name == "bias":
                    parameter.zero_()
                elif parameter.dim() == 1:
                    parameter.fill_(1)
                else:
                    parameter.normal_(0, 1 / math.sqrt(parameter[0].numel()), generator=generator)
    denoiser.eval().requires_grad_(False)
    return denoiser


def latents_argument(config: DenoiserConfig) -> str:
    """Return the name of the argument that the noisy latents are."""
    return "sample" if config.get("_class_name", "UNet2DConditionModel") == "UNet2DConditionModel" else "hidden_states"


def denoiser_inputs(
    config: DenoiserConfig, latents: int, batch: int, dtype: torch.dtype, text: int | None = None, seed: int = 1
) -> dict[str, object]:
    """Return the arguments of a forward pass: noisy latents, timesteps and text.

    Args:
        config: of the denoiser.
        latents: height and width of the latents, before they are packed into tokens.
        batch: number of samples.
        dtype: of the latents and the text.
        text: tokens of the text; None for as many as the models of this kind read.
        seed: seed of all numbers.

    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    if latents_argument(config) == "sample":
        return _unet_inputs(config, draw, latents, batch, text or TOKENS, generator)
    return _flux_inputs(config, draw, latents, batch, text or TEXT_TOKENS)


def _unet_inputs(
    config: DenoiserConfig, draw: Draw, latents: int, batch: int, text: int, generator: torch.Generator
) -> dict[str, object]:
    arguments: dict[str, object] = {
        "sample": draw(batch, _number(config, "in_channels"), latents, latents),
        "timestep": torch.randint(1000, (batch,), generator=generator),
        "encoder_hidden_states": draw(batch, text, _number(config, "cross_attention_dim")),
        "return_dict": False,
    }
    if config.get("addition_embed_type") == "text_time":
        pooled = draw(batch, 1280)
        arguments["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": torch.full((batch, 6), 512.0)}
    return arguments


def _flux_inputs(config: DenoiserConfig, draw: Draw, latents: int, batch: int, text: int) -> dict[str, object]:
    maps = draw(batch, _number(config, "in_channels") // 4, latents, latents)
    return {
        "hidden_states": packed(maps),
        "timestep": torch.full((batch,), 0.5),
        "guidance": torch.ones(batch),
        "encoder_hidden_states": draw(batch, text, _number(config, "joint_attention_dim")),
        "pooled_projections": draw(batch, _number(config, "pooled_projection_dim")),
        "img_ids": image_places(maps),
        "txt_ids": torch.zeros(text, 3),
        "return_dict": False,
    }


def _number(config: DenoiserConfig, key: str) -> int:
    return int(str(config[key]))
