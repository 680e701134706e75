"""The published architectures of Stable Diffusion, as configs of diffusers and transformers.

A single-file checkpoint has weights alone; these are the configs of its components, so that no hub is needed. Each
lists what differs from the libraries' defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from bwlab.blocks.configs import SD14, SD21, SDXL

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    Pipeline: TypeAlias = StableDiffusionPipeline | StableDiffusionXLPipeline


Config = Mapping[str, object]

TOKENS = 77  # in a caption, begin and end included
PAD_WITH_END = "<|endoftext|>"
PAD_WITH_ZERO = "!"  # the token 0, which open_clip pads with

_VAE: Config = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}

CLIP_L: Config = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}

# 24 layers in the file, of which Stable Diffusion 2 leaves out the last.
OPEN_CLIP_H: Config = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
    "hidden_act": "gelu",
}

OPEN_CLIP_BIG_G: Config = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}


@dataclass(frozen=True)
class Architecture:
    """The configs of a pipeline's components.

    Attributes:
        family: `"sd1"`, `"sd2"` or `"sdxl"`.
        unet: config of the UNet2DConditionModel.
        vae: config of the AutoencoderKL.
        text: config of each text encoder.
        pads: the padding token of each tokenizer.

    """

    family: str
    unet: Config
    vae: Config
    text: tuple[Config, ...]
    pads: tuple[str, ...]

    def components(self) -> tuple[str, ...]:
        """Return the names of the parts that have weights."""
        return ("unet", "vae", "text_encoder", "text_encoder_2")[: 2 + len(self.text)]


PUBLISHED: Mapping[str, Architecture] = {
    made.family: made
    for made in (
        Architecture("sd1", SD14, {**_VAE, "scaling_factor": 0.18215}, (CLIP_L,), (PAD_WITH_END,)),
        Architecture(
            "sd2", SD21, {**_VAE, "scaling_factor": 0.18215, "sample_size": 768}, (OPEN_CLIP_H,), (PAD_WITH_ZERO,)
        ),
        Architecture(
            "sdxl",
            SDXL,
            {**_VAE, "scaling_factor": 0.13025, "sample_size": 1024, "force_upcast": True},
            (CLIP_L, OPEN_CLIP_BIG_G),
            (PAD_WITH_END, PAD_WITH_ZERO),
        ),
    )
}
