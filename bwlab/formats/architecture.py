"""Which model family an adapter was made for, from its modules and metadata."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from bwlab.blocks.configs import SD14, SDXL
from bwlab.blocks.families import scheme_for
from bwlab.blocks.scheme import ALL, BlockScheme, Module
from bwlab.errors import BwlabError
from bwlab.formats.own_scheme import scheme_in
from bwlab.formats.transformer_modules import NAMES, declared_architecture, transformer_scheme_of

# Widths of the text features that cross attention reads, and of the text encoders that make them.
CROSS_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
TEXT_WIDTHS = {768: "sd1", 1024: "sd2"}

# Modules that exist in only one of the two families: SDXL has three levels, no attention at the outer one, deeper
# transformers and a second text encoder (diffusers' UNet configs).
ONLY_SDXL = re.compile(r"te2\.|up_blocks\.0\.attentions\.|.*\.transformer_blocks\.[1-9]|add_embedding\.")
ONLY_SD = re.compile(r"down_blocks\.(0\.attentions|2\.downsamplers|3)\.|up_blocks\.(2\.(attentions|upsamplers)|3)\.")
READS_TEXT = re.compile(r".*\.attn2\.to_[kv]$")
IN_TEXT = re.compile(r"te\.encoder\.layers\.\d+\.(self_attn\.[qkv]_proj|mlp\.fc1)$")

NUMBERED_TEXT = re.compile(r"lora_te1_|te1\.|clip_l\.|text_encoders\.")

# Parts of keys -> the model whose denoiser has such modules.
FOREIGN: tuple[tuple[str, str], ...] = (
    (r"^(?:transformer\.|lora_transformer_)", "a transformer model that bwlab does not know"),
    (
        r"^(?:lora_unet_|lycoris_|unet\.|diffusion_model\.)?"
        r"(?:(?:double|single|joint)_|(?:single_)?transformer_)?(?:blocks|layers)[._]\d",
        "a transformer model that bwlab does not know",
    ),
    (r"^(?:lora_prior_|.*\bwuerstchen)", "Stable Cascade"),
)
# Beginnings of modelspec.architecture -> architecture.
MODELSPEC = {"stable-diffusion-xl": "sdxl", "stable-diffusion-v1": "sd1", "stable-diffusion-v2": "sd2"}

# Architecture -> the model's name for people.
ARCHITECTURE_NAMES = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "SDXL",
    **NAMES,
    "unknown": "unknown",
}

Shapes = Mapping[str, tuple[int, ...] | None]

NONE: Mapping[str, str] = {}

NUMBERED = re.compile(r"[^.\d]+(?:\.[^.\d]+)*\.\d+")  # the list and the number of a block, at the start of a path


def architecture_of(
    file: Path, shapes: Shapes, metadata: Mapping[str, str], keys: Collection[str] = frozenset()
) -> str:
    """Return the architecture of an adapter for a UNet: `"sd1"`, `"sd2"`, `"sdxl"` or `"unknown"`.

    The architecture is determined by modules that only one family has and by the width of cross attention; without
    these, by the width of the first text encoder; without that, by the metadata of kohya's trainer, bwlab or modelspec.

    Args:
        file: the file's path, for messages.
        shapes: module path -> shape of its delta, or None if the shape is unknown.
        metadata: the metadata of the file.
        keys: the keys of the file. Numbered text encoders belong to a model with several: SDXL, but also SD3 or FLUX.

    Raises:
        BwlabError: the file has modules of both families.

    """
    if _is_sdxl(file, shapes):
        return "sdxl"
    widths = _input_widths(shapes, READS_TEXT)
    if widths:
        return CROSS_WIDTHS.get(widths.pop(), "unknown") if len(widths) == 1 else "unknown"
    declared = _declared(metadata)
    if declared == "sdxl":
        return "unknown" if any(ONLY_SD.match(path) for path in shapes) else "sdxl"
    if declared == "unknown" and any(NUMBERED_TEXT.match(key) for key in keys):
        return declared
    text = _input_widths(shapes, IN_TEXT)
    return TEXT_WIDTHS.get(text.pop(), "unknown") if len(text) == 1 else declared


def scheme_of(architecture: str, shapes: Shapes, metadata: Mapping[str, str] = NONE) -> BlockScheme:
    """Return the block scheme of the model that modules belong to.

    Args:
        architecture: the architecture; if it is unknown, the scheme is that of a plugin's family in the metadata, or
            else that of SD 1.x, as for the embedded base, or of numbered blocks where that knows none of the modules.
        shapes: module path -> shape of its delta, or None; the number of a transformer's blocks follows from them.
        metadata: the metadata of the file.

    """
    if architecture in NAMES:
        return transformer_scheme_of(architecture, shapes)
    own = scheme_in(metadata, shapes) if architecture == "unknown" else None
    if own is not None:
        return own
    scheme = scheme_for(SDXL if architecture == "sdxl" else SD14)
    if architecture == "unknown" and shapes and not any(scheme.module_of(path) for path in shapes):
        return _numbered_scheme(shapes)
    return scheme


def _numbered_scheme(paths: Iterable[str]) -> BlockScheme:
    """Return a scheme for a model of a plugin's family, of which only paths are known: `blocks.2.0` is in `blocks2`."""
    numbered = dict.fromkeys(match[0] for path in paths if (match := NUMBERED.match(path)))
    modules = [Module(path, "".join(path.rsplit(".", 1)), "".join(path.rsplit(".", 1))) for path in numbered]
    others = dict.fromkeys(path for path in paths if not NUMBERED.match(path))
    modules += [Module(path, path, "rest") for path in others]
    blocks = tuple(module.block for module in modules if module.block != "rest")
    return BlockScheme("numbered", tuple(modules), ((ALL, blocks),), denoiser="denoiser")


def _is_sdxl(file: Path, shapes: Shapes) -> bool:
    sdxl = next((path for path in shapes if ONLY_SDXL.match(path) or _width(shapes, path) == "sdxl"), None)
    sd = next((path for path in shapes if ONLY_SD.match(path) or _width(shapes, path) in ("sd1", "sd2")), None)
    if sdxl is not None and sd is not None:
        found = f"{sd} belongs to Stable Diffusion 1.x or 2.x, {sdxl} to SDXL"
        raise BwlabError(f"reading adapter {file}", found, "Give a file that was made for one model")
    return sdxl is not None


def _width(shapes: Shapes, path: str) -> str | None:
    shape = shapes[path]
    return CROSS_WIDTHS.get(shape[1]) if READS_TEXT.match(path) and shape is not None and len(shape) > 1 else None


def _input_widths(shapes: Shapes, pattern: re.Pattern[str]) -> set[int]:
    return {shape[1] for path, shape in shapes.items() if shape is not None and len(shape) > 1 and pattern.match(path)}


def _declared(metadata: Mapping[str, str]) -> str:
    version = metadata.get("ss_base_model_version", "")
    spec = metadata.get("modelspec.architecture", "")
    by_spec = next((name for beginning, name in MODELSPEC.items() if spec.startswith(beginning)), "unknown")
    if spec and by_spec == "unknown":
        return by_spec
    if version.startswith("sdxl") or metadata.get("bwlab.scheme") == "sdxl":
        return "sdxl"
    if version.startswith("sd_v2") or metadata.get("ss_v2") == "True":
        return "sd2"
    if version.startswith("sd_v1"):
        return "sd1"
    # kohya's trainer writes ss_v2 = False for all models but SD 2.x.
    if by_spec == "unknown" and not version and metadata.get("ss_v2") == "False":
        return "sd1"
    return by_spec


def foreign_declaration(metadata: Mapping[str, str], architecture: str) -> tuple[str, str] | None:
    """Return the key and the value by which metadata name another model than the one that the modules belong to.

    >>> foreign_declaration({"modelspec.architecture": "flux-1-dev/lora"}, "sd1")
    ('modelspec.architecture', 'flux-1-dev/lora')
    """
    if architecture in NAMES:
        said = ((key, metadata.get(key, "")) for key in ("modelspec.architecture", "ss_base_model_version"))
        return next(((key, value) for key, value in said if value and not _names(value, architecture)), None)
    known = {"modelspec.architecture": tuple(MODELSPEC), "ss_base_model_version": ("sd_", "sdxl")}
    said = ((key, metadata.get(key, "")) for key in known)
    return next(((key, value) for key, value in said if value and not value.lower().startswith(known[key])), None)


def _names(value: str, architecture: str) -> bool:
    """Return whether a value of the metadata names a transformer, or nothing that rules one out."""
    declared = declared_architecture({"modelspec.architecture": value})
    return declared == architecture or (declared is None and not value.lower().startswith(("sd_", "sdxl", *MODELSPEC)))


def foreign_model(keys: Iterable[str]) -> str | None:
    """Return the model that these keys belong to, if it is one that bwlab does not read; None if unclear."""
    listed = list(keys)
    return next((model for pattern, model in FOREIGN if any(re.search(pattern, key) for key in listed)), None)
