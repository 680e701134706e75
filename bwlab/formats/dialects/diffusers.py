"""The dialects of all releases of diffusers: PEFT leaves below `unet.`, `transformer.`, `lora.down`, and processors."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.blocks.paths import COMPONENTS, TRANSFORMER, UNET, component_of
from bwlab.formats.dialects.peft import (
    TEXT_MODEL,
    alphas_from,
    by_component,
    expresses,
    lora_config,
    peft_tensors,
    ranks_by_path,
    with_level,
)
from bwlab.formats.keys import ALPHA, DOWN, PEFT_LEAF, UP, is_path
from bwlab.formats.types import FormatReader, FormatWriter, KeyParser
from bwlab.text import parse_json

if TYPE_CHECKING:
    from bwlab.formats.contents import AdapterContents, ParsedKey
    from bwlab.formats.safetensors import AdapterFile
    from bwlab.formats.tensors import LazyTensor

# Excludes the keys of other tools that have such leaves too.
_PART = r"(?!base_model\.|lora_|lycoris_)(?:(unet|transformer|text_encoder(?:_[23])?)\.)?"

PEFT_STYLE = re.compile(rf"{_PART}(.+?)\.{PEFT_LEAF}")
OLD = re.compile(rf"{_PART}(.+)\.(?:lora|lora_linear_layer)\.(down|up)\.weight")
OLDEST = re.compile(rf"{_PART}(.+?)\.(?:processor\.)?to_([qkv]|out)_lora\.(down|up)\.weight")
ALPHA_KEY = re.compile(rf"{_PART}(.+)\.alpha")

METADATA_KEY = "lora_adapter_metadata"


def recognises(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Return whether a key has PEFT's leaves below `unet.`, `text_encoder.` or a bare module path."""
    return any(PEFT_STYLE.fullmatch(key) for key in keys)


def recognises_old(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Return whether a key was written by diffusers 0.17 to 0.20: `unet.<path>.lora.down.weight`."""
    return any(OLD.fullmatch(key) for key in keys)


def recognises_oldest(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Return whether a key was written by diffusers before 0.17: `<path>.attn1.processor.to_q_lora.down.weight`."""
    return any(OLDEST.fullmatch(key) for key in keys)


def split(key: str) -> tuple[str, str] | None:
    """Return the pipeline component with the path of the module in it, and PEFT's leaf."""
    match = PEFT_STYLE.fullmatch(key)
    return (f"{match[1] or UNET}.{match[2]}", match[3]) if match else None


def split_old(key: str) -> tuple[str, str] | None:
    """Return the pipeline component with the path of the module in it, and the leaf."""
    match = OLD.fullmatch(key)
    if match:
        return f"{match[1] or UNET}.{match[2]}", DOWN if match[3] == "down" else UP
    match = ALPHA_KEY.fullmatch(key)
    return (f"{match[1] or UNET}.{match[2]}", ALPHA) if match else None


def split_oldest(key: str) -> tuple[str, str] | None:
    """Return the pipeline component with the path of an attention processor's layer in it, and the leaf."""
    match = OLDEST.fullmatch(key)
    if match is None:
        return None
    in_text = match[1] is not None and match[1].startswith("text_encoder")
    layer = f"{match[3]}_proj" if in_text else "to_out.0" if match[3] == "out" else f"to_{match[3]}"
    return f"{match[1] or UNET}.{match[2]}.{layer}", DOWN if match[4] == "down" else UP


def adapter_path(name: str) -> str | None:
    """Return the adapter path of a module of a pipeline component; None if there is no such module.

    >>> adapter_path("text_encoder.text_model.encoder.layers.0.mlp.fc1")
    'te.encoder.layers.0.mlp.fc1'
    """
    part, _, path = name.partition(".")
    prefix = COMPONENTS.get(part, "")
    whole = prefix + (path.removeprefix("text_model.") if prefix else path)
    return whole if is_path(whole) else None


def alphas_in_metadata(file: AdapterFile, keys: Sequence[ParsedKey]) -> dict[str, float]:
    """Return path -> alpha from the PEFT configs that diffusers keeps in the metadata (`unet.lora_alpha` etc.)."""
    try:
        entries = parse_json(file.metadata.get(METADATA_KEY, "{}"))
    except ValueError:
        return {}
    if not isinstance(entries, dict):
        return {}
    ranks = ranks_by_path(file, keys)
    alphas: dict[str, float] = {}
    for part in (*COMPONENTS, TRANSFORMER):
        config = {key.removeprefix(f"{part}."): value for key, value in entries.items() if key.startswith(f"{part}.")}
        component = UNET if part == TRANSFORMER else part
        own = {path: rank for path, rank in ranks.items() if component_of(path) == component}
        alphas |= alphas_from(config, own) if config else {}
    return alphas


def write_diffusers(contents: AdapterContents, path: Path, dtype: str | None = None) -> None:
    """Write modules and metadata to a `.safetensors` file, as diffusers' `save_lora_weights` does."""
    from bwlab.formats.safetensors import write_tensors

    tensors: dict[str, LazyTensor] = {}
    configs: dict[str, object] = {}
    for component, modules in by_component(contents).items():
        level = TEXT_MODEL if component not in (UNET, TRANSFORMER) else ""
        named = {with_level(name, level): module for name, module in modules.items()}
        tensors |= {f"{component}.{key}": tensor for key, tensor in peft_tensors(named).items()}
        # diffusers 0.42 drops the level from keys where the text encoder has none, and looks names up by their ends.
        configs |= {f"{component}.{key}": value for key, value in lora_config(modules).items()}
    packed = json.dumps(configs, indent=2, sort_keys=True)
    write_tensors(path, tensors, {**contents.metadata, "format": "pt", METADATA_KEY: packed}, dtype)


READERS = (
    FormatReader(
        "diffusers",
        "diffusers: unet.<path>.lora_A.weight or transformer.<path>.lora_A.weight, alpha in the metadata",
        recognises,
        fallback=True,
        keys=KeyParser(split, adapter_path, alphas_in_metadata),
    ),
    FormatReader(
        "diffusers-old",
        "diffusers 0.17 to 0.20: unet.<path>.lora.down.weight",
        recognises_old,
        fallback=True,
        keys=KeyParser(split_old, adapter_path),
    ),
    FormatReader(
        "diffusers-oldest",
        "diffusers before 0.17: <path>.attn1.processor.to_q_lora.down.weight",
        recognises_oldest,
        fallback=True,
        keys=KeyParser(split_oldest, adapter_path),
    ),
)
WRITERS = (
    FormatWriter(
        "diffusers", "one file as save_lora_weights writes it; LoRA and LoCon only", expresses, write_diffusers
    ),
)
