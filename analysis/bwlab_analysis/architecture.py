"""Which UNet an adapter file was made for, from the file alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from bwlab.blocks.configs import SD14, SDXL
from bwlab.blocks.scheme import BlockScheme, scheme_for
from bwlab.errors import BwlabError

SDXL_TEXT_WIDTH = 2048

# Modules that only one of the two families has: SDXL has three levels, no attention at the outer one, deeper
# transformers and a second text encoder (diffusers' UNet configs).
ONLY_SDXL = re.compile(r"te2\.|up_blocks\.0\.attentions\.|.*\.transformer_blocks\.[1-9]")
ONLY_SD = re.compile(r"down_blocks\.(0\.attentions|2\.downsamplers|3)\.|up_blocks\.(2\.(attentions|upsamplers)|3)\.")
READS_TEXT = re.compile(r".*\.attn2\.to_[kv]$")


def scheme_of(path: Path, shapes: Mapping[str, tuple[int, int]], metadata: Mapping[str, str]) -> BlockScheme:
    """The block scheme of the UNet that these modules belong to: 4-1-4 (SD 1.x, 2.x, the embedded base) or SDXL's.

    Modules found in one family only decide; without any, the file's metadata does; without these it is 4-1-4. The
    names of blocks and pairs do not depend on the widths and on the layers per block, which a file does not tell.

    Raises:
        BwlabError: modules of both families.
    """
    sdxl = next((module for module in shapes if _only_sdxl(module, shapes[module])), None)
    sd = next((module for module in shapes if _only_sd(module, shapes[module])), None)
    if sdxl is not None and sd is not None:
        found = f"{sd} is of Stable Diffusion 1.x or 2.x, {sdxl} of SDXL"
        raise BwlabError(f"reading adapter {path}", found, "Give a file made for one model")
    is_sdxl = sdxl is not None or (sd is None and _metadata_says_sdxl(metadata))
    return scheme_for(SDXL if is_sdxl else SD14)


def text_widths(shapes: Mapping[str, tuple[int, int]]) -> frozenset[int]:
    """Widths of the text features that cross attention reads: 768 for SD 1.x, 1024 for SD 2.x, 2048 for SDXL."""
    return frozenset(shape[1] for module, shape in shapes.items() if READS_TEXT.match(module))


def _only_sdxl(module: str, shape: tuple[int, int]) -> bool:
    return bool(ONLY_SDXL.match(module)) or (bool(READS_TEXT.match(module)) and shape[1] == SDXL_TEXT_WIDTH)


def _only_sd(module: str, shape: tuple[int, int]) -> bool:
    return bool(ONLY_SD.match(module)) or (bool(READS_TEXT.match(module)) and shape[1] != SDXL_TEXT_WIDTH)


def _metadata_says_sdxl(metadata: Mapping[str, str]) -> bool:
    return metadata.get("bwlab.scheme") == "sdxl" or metadata.get("ss_base_model_version", "").startswith("sdxl")
