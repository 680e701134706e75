"""The UNets that bwlab knows without a download, as diffusers configs, and the shapes of a UNet's layers.

Each config is what the model's `unet/config.json` says, as far as it says anything beyond diffusers' defaults. The
numbers of parameters are the published ones: 859,520,964 (SD 1.4), 865,910,724 (SD 2.1) and 2,567,463,684 (SDXL).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bwlab.blocks.families import SD_TYPES, SDXL_TYPES

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

UnetConfig = Mapping[str, object]

_COMMON: dict[str, object] = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
}

_SD: dict[str, object] = _COMMON | {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": SD_TYPES[0],
    "mid_block_type": SD_TYPES[1],
    "up_block_types": SD_TYPES[2],
}

SD14: UnetConfig = _SD | {"attention_head_dim": 8, "cross_attention_dim": 768, "sample_size": 64}

SD21: UnetConfig = _SD | {
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "sample_size": 96,
    "upcast_attention": True,
    "use_linear_projection": True,
}

SDXL: UnetConfig = _COMMON | {
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": (5, 10, 20),
    "block_out_channels": (320, 640, 1280),
    "cross_attention_dim": 2048,
    "down_block_types": SDXL_TYPES[0],
    "mid_block_type": SDXL_TYPES[1],
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": (1, 2, 10),
    "up_block_types": SDXL_TYPES[2],
    "use_linear_projection": True,
}

KNOWN: Mapping[str, UnetConfig] = {"sd14": SD14, "sd21": SD21, "sdxl": SDXL}

OF_FAMILY: Mapping[str, str] = {"sd1": "sd14", "sd2": "sd21", "sdxl": "sdxl"}  # of single-file checkpoints


def meta_unet(config: UnetConfig) -> UNet2DConditionModel:
    """Return a UNet without weights (meta tensors), to read names and shapes from; takes seconds for any size."""
    import torch
    from diffusers import UNet2DConditionModel

    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    with torch.device("meta"):
        return UNet2DConditionModel(**settings)


def layer_shapes(unet: UNet2DConditionModel) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return kind and weight shape of every Linear and Conv2d of a UNet, by path."""
    shapes = {}
    for path, parameter in unet.named_parameters():
        module, _, leaf = path.rpartition(".")
        shape = tuple(parameter.shape)
        # Only these two kinds of layers of a UNet have weights of two and four dimensions; norms have one.
        if leaf == "weight" and len(shape) in (2, 4):
            kind = "linear" if len(shape) == 2 else "conv1x1" if shape[2:] == (1, 1) else "conv"
            shapes[module] = (kind, shape)
    return shapes
