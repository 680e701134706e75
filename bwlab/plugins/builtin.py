"""Register the built-in schemes, formats, fusions, families, optimisers, taggers and kinds; light to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bwlab.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from bwlab.base.families.family import ModelFamily
    from bwlab.blocks.scheme import SchemeFinder
    from bwlab.formats.types import FormatType
    from bwlab.fusion.types import FusionType
    from bwlab.optimizers.types import OptimizerType
    from bwlab.plugins.kinds import PluginKind
    from bwlab.tagging.tagger import Tagger, TagImages

CLIP_OPTIONS = ("model", "pretrained", "vocabulary", "threshold", "template")
WD14_OPTIONS = ("model", "tags", "threshold", "character_threshold", "rating")


@hookimpl
def bwlab_register_block_schemes() -> list[SchemeFinder]:
    """Return the schemes of Stable Diffusion's UNets and of the transformers that diffusers knows under these names."""
    from bwlab.blocks.configs import KNOWN
    from bwlab.blocks.families import find_sd, find_sdxl
    from bwlab.blocks.scheme import SchemeFinder
    from bwlab.blocks.transformers import CHROMA, FLUX, FLUX2, LUMINA2, QWEN_IMAGE, SD3, WAN, Z_IMAGE

    return [
        SchemeFinder("sd", "UNets of Stable Diffusion 1.x and 2.x: 4 levels down, mid, 4 up", find_sd, KNOWN["sd14"]),
        SchemeFinder("sdxl", "UNets of SDXL: 3 levels down, mid, 3 up", find_sdxl, KNOWN["sdxl"]),
        SchemeFinder("sd3", "Stable Diffusion 3 and 3.5: joint blocks of image and text", SD3, KNOWN["sd3"]),
        SchemeFinder("flux", "FLUX.1 and its derivatives: double blocks, then single blocks", FLUX, KNOWN["flux"]),
        SchemeFinder("chroma", "Chroma: FLUX.1's blocks without their modulation", CHROMA, KNOWN["chroma"]),
        SchemeFinder("flux2", "FLUX.2: double blocks, then single blocks", FLUX2, KNOWN["flux2"]),
        SchemeFinder("qwen-image", "Qwen-Image: blocks of image and text", QWEN_IMAGE, KNOWN["qwen-image"]),
        SchemeFinder("z-image", "Z-Image: refiners of noise and text, then layers", Z_IMAGE, KNOWN["z-image"]),
        SchemeFinder("lumina2", "Lumina 2: refiners of noise and text, then layers", LUMINA2, KNOWN["lumina2"]),
        SchemeFinder("wan", "Wan 2.1 and 2.2: blocks of self and cross attention", WAN, KNOWN["wan"]),
    ]


@hookimpl
def bwlab_register_formats() -> list[FormatType]:
    """Return the built-in readers and writers."""
    from bwlab.formats.dialects import READERS, WRITERS

    return [*READERS, *WRITERS]


@hookimpl
def bwlab_register_fusions() -> list[FusionType]:
    """Return `sum`, `guided`, `switch`, `composite`, `k-lora`, `est-lora`, `kl`, `ties`, `dare` and `b-lora`."""
    from bwlab.fusion.builtin import FUSIONS

    return list(FUSIONS)


@hookimpl
def bwlab_register_model_families() -> list[ModelFamily]:
    """Return `sd`, `sdxl`, `sd3` and `flux`."""
    from bwlab.base.families.builtin import FAMILIES

    return list(FAMILIES)


@hookimpl
def bwlab_register_optimizers() -> list[OptimizerType]:
    """Return `adamw`, `adafactor`, `prodigy`, `lion` and `adamw8bit`."""
    from bwlab.optimizers.builtin import OPTIMIZERS

    return list(OPTIMIZERS)


@hookimpl
def bwlab_register_plugin_kinds() -> list[PluginKind]:
    """Return the kinds of the core's hooks."""
    from bwlab.plugins.core_kinds import CORE_KINDS

    return list(CORE_KINDS)


def load_clip(options: Mapping[str, str]) -> TagImages:
    """Return the open_clip tagger (imports torch and open_clip)."""
    from bwlab.tagging.clip import load

    return load(options)


def load_wd14(options: Mapping[str, str]) -> TagImages:
    """Return the ONNX tagger (imports onnxruntime)."""
    from bwlab.tagging.wd14 import load

    return load(options)


@hookimpl
def bwlab_register_taggers() -> list[Tagger]:
    """Return the taggers `clip` and `wd14`."""
    from bwlab.tagging.tagger import Tagger

    return [
        Tagger("clip", "open_clip, zero-shot over a vocabulary of your own", load_clip, CLIP_OPTIONS),
        Tagger("wd14", "a WD14-type ONNX model with its selected_tags.csv", load_wd14, WD14_OPTIONS),
    ]
