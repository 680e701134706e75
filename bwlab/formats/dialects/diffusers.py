"""diffusers' keys, of all its ages: PEFT leaves below `unet.`, `lora.down`, and the attention processors of old."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from bwlab.blocks.paths import COMPONENTS, UNET, component_of
from bwlab.formats.dialects.peft import LEAF, alphas_from, canonical_leaf
from bwlab.formats.keys import ALPHA, DOWN, UP, is_path

if TYPE_CHECKING:
    from bwlab.formats.contents import AdapterContents, ParsedKey
    from bwlab.formats.safetensors import AdapterFile

# Not the keys of other tools, which have such leaves too.
_PART = r"(?!base_model\.|lora_|lycoris_)(?:(unet|text_encoder(?:_2)?)\.)?"

PEFT_STYLE = re.compile(rf"{_PART}(.+?)\.{LEAF}")
OLD = re.compile(rf"{_PART}(.+)\.(?:lora|lora_linear_layer)\.(down|up)\.weight")
OLDEST = re.compile(rf"{_PART}(.+?)\.(?:processor\.)?to_([qkv]|out)_lora\.(down|up)\.weight")
ALPHA_KEY = re.compile(rf"{_PART}(.+)\.alpha")

CONFIG = "lora_adapter_metadata"

KeyParser: TypeAlias = "Callable[[AdapterFile, str], ParsedKey | None]"


def recognises(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether a key has PEFT's leaves below `unet.`, `text_encoder.`, or a bare module path."""
    return any(PEFT_STYLE.fullmatch(key) for key in keys)


def recognises_old(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether a key is of diffusers 0.17 to 0.20: `unet.<path>.lora.down.weight`."""
    return any(OLD.fullmatch(key) for key in keys)


def recognises_oldest(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether a key is of diffusers before 0.17: `<path>.attn1.processor.to_q_lora.down.weight`."""
    return any(OLDEST.fullmatch(key) for key in keys)


def read(file: AdapterFile) -> AdapterContents:
    """Return the contents of a file of PEFT's leaves below `unet.`; alphas from the metadata's `lora_adapter_metadata`."""
    return _read(file, "diffusers", [_place_peft, _place_alpha])


def read_old(file: AdapterFile) -> AdapterContents:
    """Return the contents of a file of `lora.down.weight` leaves; alpha is the rank unless a key says otherwise."""
    return _read(file, "diffusers-old", [_place_oldest, _place_old, _place_alpha])


def read_oldest(file: AdapterFile) -> AdapterContents:
    """Return the contents of a file of attention processors; alpha is the rank."""
    return _read(file, "diffusers-oldest", [_place_oldest, _place_old])


def adapter_path(part: str | None, path: str) -> str | None:
    """Return the adapter path of a module of a part (`"unet"`, `"text_encoder"`, None: the UNet), or None if there is none.

    >>> adapter_path("text_encoder", "text_model.encoder.layers.0.mlp.fc1")
    'te.encoder.layers.0.mlp.fc1'
    """
    prefix = COMPONENTS[part or UNET]
    whole = prefix + (path.removeprefix("text_model.") if prefix else path)
    return whole if is_path(whole) else None


def _read(file: AdapterFile, dialect: str, places: Iterable[KeyParser]) -> AdapterContents:
    from bwlab.formats.contents import assemble

    placed, unknown = [], []
    for key in file.entries:
        found = next((one for place in places if (one := place(file, key)) is not None), None)
        if found is None:
            unknown.append(key)
        else:
            placed.append(found)
    alphas = _alphas(file.metadata, placed, file)
    return assemble(file, dialect, placed, alphas=alphas, unknown=unknown)


def _place_peft(file: AdapterFile, key: str) -> ParsedKey | None:
    match = PEFT_STYLE.fullmatch(key)
    path = adapter_path(match[1], match[2]) if match else None
    return None if match is None or path is None else canonical_leaf(file, key, path, match[3])


def _place_old(file: AdapterFile, key: str) -> ParsedKey | None:
    from bwlab.formats.contents import ParsedKey

    match = OLD.fullmatch(key)
    path = adapter_path(match[1], match[2]) if match else None
    return None if match is None or path is None else ParsedKey(key, path, DOWN if match[3] == "down" else UP)


def _place_oldest(file: AdapterFile, key: str) -> ParsedKey | None:
    from bwlab.formats.contents import ParsedKey

    match = OLDEST.fullmatch(key)
    if match is None:
        return None
    in_text = match[1] is not None and match[1].startswith("text_encoder")
    layer = f"{match[3]}_proj" if in_text else "to_out.0" if match[3] == "out" else f"to_{match[3]}"
    path = adapter_path(match[1], f"{match[2]}.{layer}")
    return None if path is None else ParsedKey(key, path, DOWN if match[4] == "down" else UP)


def _place_alpha(file: AdapterFile, key: str) -> ParsedKey | None:
    from bwlab.formats.contents import ParsedKey

    match = ALPHA_KEY.fullmatch(key)
    path = adapter_path(match[1], match[2]) if match else None
    return None if path is None else ParsedKey(key, path, ALPHA)


def _alphas(metadata: Mapping[str, str], placed: Iterable[ParsedKey], file: AdapterFile) -> dict[str, float]:
    """Path -> alpha, as the configs of PEFT say that diffusers keeps in the metadata, `unet.lora_alpha` and so on."""
    try:
        entries = json.loads(metadata.get(CONFIG, "{}"))
    except ValueError:
        return {}
    ranks = {one.path: file.entries[one.key].shape[0] for one in placed if one.leaf == DOWN}
    found: dict[str, float] = {}
    for part in COMPONENTS:
        config = {key.removeprefix(f"{part}."): value for key, value in entries.items() if key.startswith(f"{part}.")}
        own = {path: rank for path, rank in ranks.items() if component_of(path) == part}
        found |= alphas_from(config, own) if config else {}
    return found
