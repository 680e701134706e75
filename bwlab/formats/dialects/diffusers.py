"""diffusers' dialects of all its releases: PEFT leaves below `unet.`, `lora.down`, and the attention processors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bwlab.blocks.paths import COMPONENTS, UNET, component_of
from bwlab.formats.dialects.peft import (
    LEAF,
    TEXT_MODEL,
    alphas_from,
    by_component,
    canonical_leaf,
    expresses,
    lora_config,
    peft_tensors,
    with_level,
)
from bwlab.formats.keys import ALPHA, DOWN, UP, is_path
from bwlab.formats.types import FormatReader, FormatWriter

if TYPE_CHECKING:
    from bwlab.formats.contents import AdapterContents, ParsedKey
    from bwlab.formats.safetensors import AdapterFile
    from bwlab.formats.tensors import LazyTensor

# Not the keys of other tools, which have such leaves too.
_PART = r"(?!base_model\.|lora_|lycoris_)(?:(unet|text_encoder(?:_2)?)\.)?"

PEFT_STYLE = re.compile(rf"{_PART}(.+?)\.{LEAF}")
OLD = re.compile(rf"{_PART}(.+)\.(?:lora|lora_linear_layer)\.(down|up)\.weight")
OLDEST = re.compile(rf"{_PART}(.+?)\.(?:processor\.)?to_([qkv]|out)_lora\.(down|up)\.weight")
ALPHA_KEY = re.compile(rf"{_PART}(.+)\.alpha")

METADATA_KEY = "lora_adapter_metadata"

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
    """Return the contents of a file of PEFT's leaves below `unet.`; its alphas are in the metadata."""
    return _read(file, "diffusers", [_parse_peft, _parse_alpha])


def read_old(file: AdapterFile) -> AdapterContents:
    """Return the contents of a file of `lora.down.weight` leaves; alpha is the rank unless a key says otherwise."""
    return _read(file, "diffusers-old", [_parse_oldest, _parse_old, _parse_alpha])


def read_oldest(file: AdapterFile) -> AdapterContents:
    """Return the contents of a file of attention processors; alpha is the rank."""
    return _read(file, "diffusers-oldest", [_parse_oldest, _parse_old])


def adapter_path(part: str | None, path: str) -> str | None:
    """Return the adapter path of a module of a part (`"unet"`, `"text_encoder"`, None: the UNet), or None.

    >>> adapter_path("text_encoder", "text_model.encoder.layers.0.mlp.fc1")
    'te.encoder.layers.0.mlp.fc1'
    """
    prefix = COMPONENTS[part or UNET]
    whole = prefix + (path.removeprefix("text_model.") if prefix else path)
    return whole if is_path(whole) else None


def _read(file: AdapterFile, dialect: str, parsers: Sequence[KeyParser]) -> AdapterContents:
    from bwlab.formats.contents import assemble

    parsed_keys, unknown = [], []
    for key in file.entries:
        parsed = next((result for parser in parsers if (result := parser(file, key)) is not None), None)
        if parsed is None:
            unknown.append(key)
        else:
            parsed_keys.append(parsed)
    alphas = _alphas(file.metadata, parsed_keys, file)
    return assemble(file, dialect, parsed_keys, alphas=alphas, unknown=unknown)


def _parse_peft(file: AdapterFile, key: str) -> ParsedKey | None:
    match = PEFT_STYLE.fullmatch(key)
    path = adapter_path(match[1], match[2]) if match else None
    return None if match is None or path is None else canonical_leaf(file, key, path, match[3])


def _parse_old(file: AdapterFile, key: str) -> ParsedKey | None:
    from bwlab.formats.contents import ParsedKey

    match = OLD.fullmatch(key)
    path = adapter_path(match[1], match[2]) if match else None
    return None if match is None or path is None else ParsedKey(key, path, DOWN if match[3] == "down" else UP)


def _parse_oldest(file: AdapterFile, key: str) -> ParsedKey | None:
    from bwlab.formats.contents import ParsedKey

    match = OLDEST.fullmatch(key)
    if match is None:
        return None
    in_text = match[1] is not None and match[1].startswith("text_encoder")
    layer = f"{match[3]}_proj" if in_text else "to_out.0" if match[3] == "out" else f"to_{match[3]}"
    path = adapter_path(match[1], f"{match[2]}.{layer}")
    return None if path is None else ParsedKey(key, path, DOWN if match[4] == "down" else UP)


def _parse_alpha(file: AdapterFile, key: str) -> ParsedKey | None:
    from bwlab.formats.contents import ParsedKey

    match = ALPHA_KEY.fullmatch(key)
    path = adapter_path(match[1], match[2]) if match else None
    return None if path is None else ParsedKey(key, path, ALPHA)


def _alphas(metadata: Mapping[str, str], parsed: Iterable[ParsedKey], file: AdapterFile) -> dict[str, float]:
    """Path -> alpha, from PEFT's configs that diffusers keeps in the metadata as `unet.lora_alpha` and so on."""
    try:
        entries = json.loads(metadata.get(METADATA_KEY, "{}"))
    except ValueError:
        return {}
    ranks = {key.path: file.entries[key.key].shape[0] for key in parsed if key.leaf == DOWN}
    alphas: dict[str, float] = {}
    for part in COMPONENTS:
        config = {key.removeprefix(f"{part}."): value for key, value in entries.items() if key.startswith(f"{part}.")}
        own = {path: rank for path, rank in ranks.items() if component_of(path) == part}
        alphas |= alphas_from(config, own) if config else {}
    return alphas


def write_diffusers(contents: AdapterContents, path: Path, dtype: str | None = None) -> None:
    """Write modules and metadata to a `.safetensors` file as `save_lora_weights` of diffusers does."""
    from bwlab.formats.safetensors import write_tensors

    tensors: dict[str, LazyTensor] = {}
    configs: dict[str, object] = {}
    for component, modules in by_component(contents).items():
        level = TEXT_MODEL if component != "unet" else ""
        named = {with_level(name, level): module for name, module in modules.items()}
        tensors |= {f"{component}.{key}": tensor for key, tensor in peft_tensors(named).items()}
        # diffusers 0.42 drops the level from keys where the text encoder has none, and looks names up by their ends.
        configs |= {f"{component}.{key}": value for key, value in lora_config(modules).items()}
    packed = json.dumps(configs, indent=2, sort_keys=True)
    write_tensors(path, tensors, {**contents.metadata, "format": "pt", METADATA_KEY: packed}, dtype)


READERS = (
    FormatReader(
        "diffusers",
        "diffusers: unet.<path>.lora_A.weight, alpha in the metadata",
        recognises,
        read,
        fallback=True,
    ),
    FormatReader(
        "diffusers-old",
        "diffusers 0.17 to 0.20: unet.<path>.lora.down.weight",
        recognises_old,
        read_old,
        fallback=True,
    ),
    FormatReader(
        "diffusers-oldest",
        "diffusers before 0.17: <path>.attn1.processor.to_q_lora.down.weight",
        recognises_oldest,
        read_oldest,
        fallback=True,
    ),
)
WRITERS = (
    FormatWriter(
        "diffusers", "one file as save_lora_weights writes it; LoRA and LoCon only", expresses, write_diffusers
    ),
)
