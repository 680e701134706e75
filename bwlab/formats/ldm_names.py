"""Names of UNet modules in adapter files of LDM style: kohya's prefix and the original Stable Diffusion code's path."""

from __future__ import annotations

import re

from bwlab.components import in_text_encoder
from bwlab.errors import BwlabError
from bwlab.formats.keys import LDM_MIDDLE, LDM_RESNET, LDM_SINGLE, UNET_PREFIX, kohya_name_of

_SINGLE = {path: name for name, path in LDM_SINGLE.items()}
_MIDDLE = {path: index for index, path in LDM_MIDDLE.items()}
_RESNET = {path: name for name, path in LDM_RESNET.items()}
_LEVEL = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MID = re.compile(r"(mid_block\.(?:resnets|attentions)\.\d+)\.(.+)")
# Where a level has no transformers, its upsampler is the second thing in its last output block, else the third.
_NO_TRANSFORMERS = {"sdxl": 2}
PAIRS = 3  # Blocks per level: two resnets and a downsampler on the way in, three resnets on the way out.


def ldm_name_of(path: str, architecture: str) -> str:
    """The module name of an adapter path in LDM style; text encoders keep their kohya names.

    >>> ldm_name_of("down_blocks.1.attentions.0.proj_in", "sd1")
    'lora_unet_input_blocks_4_1_proj_in'
    >>> ldm_name_of("up_blocks.0.upsamplers.0.conv", "sd1"), ldm_name_of("up_blocks.0.upsamplers.0.conv", "sdxl")
    ('lora_unet_output_blocks_2_1_conv', 'lora_unet_output_blocks_2_2_conv')

    Args:
        path: of the adapter.
        architecture: `"sd1"`, `"sd2"`, `"sdxl"`, as `AdapterContents.architecture` says.

    Raises:
        BwlabError: the original code has no such module.
    """
    if in_text_encoder(path):
        return kohya_name_of(path, two_text_encoders=architecture == "sdxl")
    name = _SINGLE.get(path) or _level_name(path, architecture) or _mid_name(path)
    if name is None:
        raise BwlabError(
            f"an LDM name for {path}", "the original Stable Diffusion code has no such module", "Leave it out"
        )
    return UNET_PREFIX + name


def _level_name(path: str, architecture: str) -> str | None:
    match = _LEVEL.fullmatch(path)
    if match is None:
        return None
    side, kind, inner = match[1], match[3], match[5]
    level, pair = int(match[2]), int(match[4])
    if kind == "downsamplers":
        return f"input_blocks_{PAIRS * level + PAIRS}_0_op"
    if kind == "upsamplers":
        slot = 1 if level == _NO_TRANSFORMERS.get(architecture, 0) else 2
        return f"output_blocks_{PAIRS * level + PAIRS - 1}_{slot}_conv"
    block = f"input_blocks_{1 + PAIRS * level + pair}" if side == "down" else f"output_blocks_{PAIRS * level + pair}"
    return f"{block}_{_inner(kind, inner)}"


def _mid_name(path: str) -> str | None:
    match = _MID.fullmatch(path)
    if match is None or match[1] not in _MIDDLE:
        return None
    kind = match[1].split(".")[1]
    return f"middle_block_{_MIDDLE[match[1]]}_{_inner(kind, match[2]).partition('_')[2]}"


def _inner(kind: str, inner: str) -> str:
    """Slot and module within a block: a resnet's modules have names of their own, a transformer's keep theirs."""
    return f"0_{_RESNET.get(inner, inner)}" if kind == "resnets" else f"1_{inner.replace('.', '_')}"
