"""Keys with dots, with LDM or diffusers names below the name of a model: OneTrainer, ComfyUI and others since 2024.

`unet.output_blocks.5.1.transformer_blocks.1.ff.net.2.lora_up.weight` (OneTrainer),
`diffusion_model.input_blocks.4.1.proj_in.lora_A.weight` (ComfyUI), `clip_l.text_model.encoder...` for text encoders.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from bwlab.formats.dialects.kohya import path_or_none
from bwlab.formats.types import FormatReader, FormatWriter, KeyParser

_FIRST_TEXT = (
    r"clip_l|te1?|text_encoder|text_encoders\.clip_l\.transformer"
    r"|conditioner\.embedders\.0\.transformer|cond_stage_model\.transformer"
)
_THIRD_TEXT = r"t5xxl|te3|text_encoder_3|text_encoders\.t5xxl\.transformer"
_SECOND_TEXT = r"clip_g|te2|text_encoder_2|text_encoders\.clip_g\.transformer"
LEAF = (
    r"lora_(?:down|up|mid)\.weight|lora_[AB](?:\.[^.]+)?\.weight|lora\.(?:down|up)\.weight|alpha|scalar|dora_scale"
    r"|magnitude|lora_magnitude_vector(?:\.weight)?|hada_\w+|lokr_\w+|oft_blocks|rescale|diff|diff_b|w_norm|b_norm"
)
DOTTED = re.compile(
    rf"(?!base_model\.|lora_|lycoris_)(?:(?:model\.)?diffusion_model\.|unet\.|transformer\."
    rf"|({_FIRST_TEXT})\.|({_SECOND_TEXT})\.|({_THIRD_TEXT})\.)?([^:]+?)\.({LEAF})"
)


def split(key: str) -> tuple[str, str] | None:
    """Return kohya's name of the module that the key names with dots, and the leaf."""
    match = DOTTED.fullmatch(key)
    if match is None:
        return None
    prefix = "lora_te1_" if match[1] else "lora_te2_" if match[2] else "lora_te3_" if match[3] else "lora_unet_"
    return prefix + match[4].replace(".", "_"), match[5]


def recognises(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Return whether a key names a known module with dots."""
    names = {name for key in keys if (parts := split(key)) is not None for name in parts[:1]}
    return any(path_or_none(name) is not None for name in names)


READERS = (
    FormatReader(
        "dotted",
        "OneTrainer, ComfyUI: unet.output_blocks.5.1...lora_up.weight, diffusion_model.<path>.lora_A.weight",
        recognises,
        fallback=True,
        keys=KeyParser(split, path_or_none),
    ),
)
WRITERS: tuple[FormatWriter, ...] = ()
