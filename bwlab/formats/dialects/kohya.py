"""kohya's keys and their relatives: `lora_unet_<path with underscores>.<leaf>`, LDM names, other prefixes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError
from bwlab.formats.keys import path_of
from bwlab.formats.placed import Placed

if TYPE_CHECKING:
    from bwlab.formats.contents import AdapterContents
    from bwlab.formats.files import AdapterFile
    from bwlab.formats.tensors import LazyTensor

KOHYA = re.compile(r"(lora_(?:unet|te|te1|te2)_[^.]+)\.(.+)")
LDM = re.compile(r"lora_unet_(?:input_blocks|middle_block|output_blocks|time_embed|label_emb|out)_\d")
DOUBLED = re.compile(
    r"lora_(?:(unet)_unet|(te\d?)_(?:te\d?|text_encoder(?:_2)?))_(.+?)[._](lora_(?:down|up)\.weight|alpha)"
)
LYCORIS = re.compile(r"lycoris_([^.]+)\.(.+)")
BUNDLED = re.compile(r"bundle_emb\.(.+)\.(?:string_to_param\.\*|(clip_l)|(clip_g))")

IN_TEXT_ENCODER = ("text_model_", "encoder_layers_", "text_projection")


def recognises_kohya(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether a key is of kohya's: with diffusers' name of a UNet module, or with none of the UNet, of an encoder."""
    own = [key for key in keys if KOHYA.fullmatch(key) and not DOUBLED.fullmatch(key)]
    in_unet = [key for key in own if key.startswith("lora_unet_")]
    return any(not LDM.match(key) for key in in_unet) or (bool(own) and not in_unet)


def recognises_ldm(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether a key is of kohya's on a UNet module with the name that the original Stable Diffusion code gives it."""
    return any(LDM.match(key) and KOHYA.fullmatch(key) for key in keys)


def recognises_doubled(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether a key has the doubled prefix that some converters wrote."""
    return any(DOUBLED.fullmatch(key) for key in keys)


def recognises_lycoris(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether a key has the prefix that LyCORIS gives outside of kohya's trainer."""
    return any(LYCORIS.fullmatch(key) for key in keys)


def read_kohya(file: AdapterFile) -> AdapterContents:
    """The contents of a file of kohya's keys with diffusers names."""
    return _read(file, "kohya")


def read_ldm(file: AdapterFile) -> AdapterContents:
    """The contents of a file of kohya's keys with LDM names; text encoders are named as ever."""
    return _read(file, "ldm")


def read_doubled(file: AdapterFile) -> AdapterContents:
    """The contents of a file with keys such as `lora_unet_unet_conv_in_lora_down.weight`."""
    return _read(file, "kohya-doubled")


def read_lycoris(file: AdapterFile) -> AdapterContents:
    """The contents of a file with keys such as `lycoris_conv_in.lokr_w1`."""
    return _read(file, "lycoris")


def bundled_embeddings(file: AdapterFile) -> dict[str, LazyTensor]:
    """Token -> embedding, of those that trainers put beside an adapter; those of `clip_g` start with `te2:`."""
    found = {}
    for key in file.entries:
        match = BUNDLED.fullmatch(key)
        if match:
            found[f"te2:{match[1]}" if match[3] else match[1]] = file.tensor(key)
    return found


def _read(file: AdapterFile, dialect: str) -> AdapterContents:
    from bwlab.formats.assemble import assemble

    embeddings = bundled_embeddings(file)
    placed, unknown = [], []
    paths: dict[str, str | None] = {}
    for key in file.entries:
        name, leaf = _split(key, dialect)
        if name not in paths:
            paths[name] = _path(name)
        path = paths[name]
        if path is not None:
            placed.append(Placed(key, path, leaf))
        elif not BUNDLED.fullmatch(key):
            unknown.append(key)
    return assemble(file, dialect, placed, embeddings=embeddings, unknown=unknown)


def _split(key: str, dialect: str) -> tuple[str, str]:
    """kohya's module name and the leaf; empty where the key is of another form."""
    if dialect == "kohya-doubled":
        match = DOUBLED.fullmatch(key)
        if match:
            return f"lora_{match[1] or match[2]}_{match[3]}", match[4]
    if dialect == "lycoris":
        match = LYCORIS.fullmatch(key)
        if match:
            prefix = "lora_te_" if match[1].startswith(IN_TEXT_ENCODER) else "lora_unet_"
            return prefix + match[1], match[2]
    match = KOHYA.fullmatch(key)
    return (match[1], match[2]) if match else ("", "")


def _path(name: str) -> str | None:
    try:
        return path_of(name) if name else None
    except BwlabError:
        return None
