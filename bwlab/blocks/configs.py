"""The denoisers that bwlab knows without a download, as diffusers configs, and the shapes of a denoiser's layers.

Each config is what the model's `unet/config.json` or `transformer/config.json` says, as far as it determines modules
and shapes. The numbers of parameters of the UNets are the published ones: 859,520,964 (SD 1.4), 865,910,724 (SD 2.1)
and 2,567,463,684 (SDXL). The configs of transformers are from these sources:

- FLUX.1 dev (and Kontext, Krea), FLUX.2, Wan 2.1 and SD 3: diffusers' own conversion scripts
  (`convert_flux_to_diffusers`, `convert_flux2_to_diffusers`, `convert_wan_to_diffusers`, `convert_sd3_to_diffusers`)
  and the defaults of its classes.
- SD 3.5 medium and large, Chroma, Qwen-Image, Z-Image and Lumina 2: copies of the published `config.json` in public
  code, of which several agree, and the defaults of diffusers' classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bwlab.blocks.families import SD_TYPES, SDXL_TYPES

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from torch import nn

DenoiserConfig = Mapping[str, object]

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

SD14: DenoiserConfig = _SD | {"attention_head_dim": 8, "cross_attention_dim": 768, "sample_size": 64}

SD21: DenoiserConfig = _SD | {
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "sample_size": 96,
    "upcast_attention": True,
    "use_linear_projection": True,
}

SDXL: DenoiserConfig = _COMMON | {
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

UNETS: Mapping[str, DenoiserConfig] = {"sd14": SD14, "sd21": SD21, "sdxl": SDXL}

_SD3: dict[str, object] = {
    "_class_name": "SD3Transformer2DModel",
    "attention_head_dim": 64,
    "in_channels": 16,
    "joint_attention_dim": 4096,
    "out_channels": 16,
    "patch_size": 2,
    "pooled_projection_dim": 2048,
    "sample_size": 128,
}
_SD3_MEDIUM = _SD3 | {"caption_projection_dim": 1536, "num_attention_heads": 24, "num_layers": 24}
_FLUX: dict[str, object] = {
    "attention_head_dim": 128,
    "axes_dims_rope": (16, 56, 56),
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 19,
    "num_single_layers": 38,
    "patch_size": 1,
}
_FLUX2: dict[str, object] = {
    "_class_name": "Flux2Transformer2DModel",
    "attention_head_dim": 128,
    "axes_dims_rope": (32, 32, 32, 32),
    "in_channels": 128,
    "mlp_ratio": 3.0,
    "patch_size": 1,
    "rope_theta": 2000,
    "timestep_guidance_channels": 256,
}
_WAN: dict[str, object] = {
    "_class_name": "WanTransformer3DModel",
    "attention_head_dim": 128,
    "cross_attn_norm": True,
    "freq_dim": 256,
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": (1, 2, 2),
    "qk_norm": "rms_norm_across_heads",
    "text_dim": 4096,
}

TRANSFORMER_MODELS: Mapping[str, DenoiserConfig] = {
    "sd3": _SD3_MEDIUM | {"pos_embed_max_size": 192, "qk_norm": None},
    "sd35-medium": _SD3_MEDIUM
    | {"dual_attention_layers": tuple(range(13)), "pos_embed_max_size": 384, "qk_norm": "rms_norm"},
    "sd35-large": _SD3
    | {
        "caption_projection_dim": 2432,
        "num_attention_heads": 38,
        "num_layers": 38,
        "pos_embed_max_size": 192,
        "qk_norm": "rms_norm",
    },
    "flux": _FLUX | {"_class_name": "FluxTransformer2DModel", "guidance_embeds": True, "pooled_projection_dim": 768},
    "chroma": _FLUX
    | {
        "_class_name": "ChromaTransformer2DModel",
        "approximator_hidden_dim": 5120,
        "approximator_layers": 5,
        "approximator_num_channels": 64,
    },
    "flux2": _FLUX2
    | {"joint_attention_dim": 15360, "num_attention_heads": 48, "num_layers": 8, "num_single_layers": 48},
    "flux2-klein-4b": _FLUX2
    | {
        "guidance_embeds": False,
        "joint_attention_dim": 7680,
        "num_attention_heads": 24,
        "num_layers": 5,
        "num_single_layers": 20,
    },
    "flux2-klein-9b": _FLUX2
    | {
        "guidance_embeds": False,
        "joint_attention_dim": 12288,
        "num_attention_heads": 32,
        "num_layers": 8,
        "num_single_layers": 24,
    },
    "qwen-image": {
        "_class_name": "QwenImageTransformer2DModel",
        "attention_head_dim": 128,
        "axes_dims_rope": (16, 56, 56),
        "guidance_embeds": False,
        "in_channels": 64,
        "joint_attention_dim": 3584,
        "num_attention_heads": 24,
        "num_layers": 60,
        "out_channels": 16,
        "patch_size": 2,
    },
    "z-image": {
        "_class_name": "ZImageTransformer2DModel",
        "all_f_patch_size": (1,),
        "all_patch_size": (2,),
        "axes_dims": (32, 48, 48),
        "axes_lens": (1536, 512, 512),
        "cap_feat_dim": 2560,
        "dim": 3840,
        "in_channels": 16,
        "n_heads": 30,
        "n_kv_heads": 30,
        "n_layers": 30,
        "n_refiner_layers": 2,
        "qk_norm": True,
        "rope_theta": 256.0,
        "t_scale": 1000.0,
    },
    "lumina2": {
        "_class_name": "Lumina2Transformer2DModel",
        "axes_dim_rope": (32, 32, 32),
        "axes_lens": (300, 512, 512),
        "cap_feat_dim": 2304,
        "hidden_size": 2304,
        "in_channels": 16,
        "multiple_of": 256,
        "num_attention_heads": 24,
        "num_kv_heads": 8,
        "num_layers": 26,
        "num_refiner_layers": 2,
        "patch_size": 2,
        "sample_size": 128,
    },
    "wan": _WAN | {"ffn_dim": 13824, "num_attention_heads": 40, "num_layers": 40},
    "wan-1.3b": _WAN | {"ffn_dim": 8960, "num_attention_heads": 12, "num_layers": 30},
}

KNOWN: Mapping[str, DenoiserConfig] = {**UNETS, **TRANSFORMER_MODELS}

OF_FAMILY: Mapping[str, str] = {"sd1": "sd14", "sd2": "sd21", "sdxl": "sdxl"}  # of single-file checkpoints


def meta_unet(config: DenoiserConfig) -> UNet2DConditionModel:
    """Return a UNet without weights (meta tensors), to read names and shapes from; takes seconds for any size."""
    from diffusers import UNet2DConditionModel

    unet = meta_denoiser({"_class_name": "UNet2DConditionModel", **config})
    assert isinstance(unet, UNet2DConditionModel)
    return unet


def meta_denoiser(config: DenoiserConfig) -> nn.Module:
    """Return the UNet or transformer that a config names, without weights (meta tensors), as `meta_unet` does."""
    import diffusers
    import torch

    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    model_class = getattr(diffusers, str(config["_class_name"]))
    with torch.device("meta"):
        model: nn.Module = model_class(**settings)
    return model


def layer_shapes(denoiser: nn.Module) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return kind and weight shape of every Linear and Conv2d of a UNet or transformer, by path."""
    shapes = {}
    for path, parameter in denoiser.named_parameters():
        module, _, leaf = path.rpartition(".")
        shape = tuple(parameter.shape)
        # Only these two kinds of layers have weights of two and four dimensions; norms have one.
        if leaf == "weight" and len(shape) in (2, 4):
            kind = "linear" if len(shape) == 2 else "conv1x1" if shape[2:] == (1, 1) else "conv"
            shapes[module] = (kind, shape)
    return shapes
