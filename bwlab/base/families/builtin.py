"""The built-in model families; the descriptions are light to import."""

from __future__ import annotations

from bwlab.base.families.family import ModelFamily
from bwlab.base.families.flux import Flux
from bwlab.base.families.qwen_image import QwenImage
from bwlab.base.families.sd3 import StableDiffusion3
from bwlab.base.families.stable_diffusion import StableDiffusion, StableDiffusionXL
from bwlab.base.families.z_image import ZImage

FAMILIES: tuple[ModelFamily, ...] = (
    StableDiffusion(),
    StableDiffusionXL(),
    StableDiffusion3(),
    Flux(),
    QwenImage(),
    ZImage(),
)
