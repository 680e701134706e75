"""PEFT's own dialect: `base_model.model.<path>.lora_A.weight`, with alpha in `adapter_config.json` beside the file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.blocks.paths import COMPONENTS, TRANSFORMER, UNET, component_of
from bwlab.blocks.transformers import TRANSFORMERS
from bwlab.errors import BwlabError
from bwlab.files import files_together, make_folder, write_atomically
from bwlab.formats.keys import DOWN, PEFT_LEAF, UP, is_path
from bwlab.formats.own_scheme import scheme_in
from bwlab.formats.types import FormatReader, FormatWriter, KeyParser
from bwlab.text import parse_json

if TYPE_CHECKING:
    from bwlab.formats.contents import AdapterContents, ParsedKey
    from bwlab.formats.modules import ModuleWeights
    from bwlab.formats.safetensors import AdapterFile
    from bwlab.formats.tensors import LazyTensor


PEFT = re.compile(rf"base_model\.model\.(.+?)\.{PEFT_LEAF}")
LITERAL = re.compile(r"\^?[\w.-]+")
REPETITION = re.compile(r"[*+{]")
REPEATED_GROUP = re.compile(r"\)[*+?{]")
RANK_LEAVES = (DOWN, "hada_w1_b", "lokr_w1_b", "lokr_w2_b")
TEXT_BEGINNINGS = ("text_model.", "encoder.", "text_projection")

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
# Models that keep CLIP's transformer below `text_model.` today: the one with a projection. Older files use it for both.
TEXT_MODEL, T5_BLOCKS = "text_model.", "encoder.block."
_WRITTEN_LEAVES = {DOWN: "lora_A.weight", UP: "lora_B.weight"}


def recognises(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Return whether a key starts with `base_model.model.`."""
    return any(PEFT.fullmatch(key) for key in keys)


def split(key: str) -> tuple[str, str] | None:
    """Return the name of the module in its model, and the leaf."""
    match = PEFT.fullmatch(key)
    return (match[1], match[2]) if match else None


def path_of_name(name: str) -> str | None:
    """Return the adapter path of a module: of a text encoder if its name has that form, else of a denoiser."""
    bare = name.removeprefix("unet.").removeprefix("transformer.")
    path = f"te.{name.removeprefix('text_model.')}" if name.startswith(TEXT_BEGINNINGS) else bare
    return path if is_path(path) else None


def alphas_beside(file: AdapterFile, keys: Sequence[ParsedKey]) -> dict[str, float]:
    """Return the alphas that the config beside a file gives, by path."""
    return alphas_from(_config(file), ranks_by_path(file, keys))


def scales_beside(file: AdapterFile, keys: Sequence[ParsedKey]) -> dict[str, float]:
    """Return path -> alpha / rank of the modules of LoKr with two whole matrices, which PEFT scales too.

    The rank is that of the config beside the file, since no tensor has it.
    """
    leaves: dict[str, set[str]] = {}
    for key in keys:
        leaves.setdefault(key.path, set()).add(key.leaf)
    whole = [path for path, own in leaves.items() if {"lokr_w1", "lokr_w2"} <= own]
    config = _config(file) if whole else {}
    alphas = _by_pattern(config, "alpha_pattern", config.get("alpha"), whole)
    ranks = _by_pattern(config, "rank_pattern", config.get("r"), whole)
    return {path: alpha / ranks[path] for path, alpha in alphas.items() if ranks.get(path, 0) > 0}


def ranks_by_path(file: AdapterFile, keys: Sequence[ParsedKey]) -> dict[str, int]:
    """Return path -> rank, from the factors whose first size is the rank; a single number has none."""
    shapes = {key.path: file.entries[key.key].shape for key in keys if key.leaf in RANK_LEAVES}
    return {path: shape[0] for path, shape in shapes.items() if shape}


def alphas_from(config: Mapping[str, object], ranks: Mapping[str, int]) -> dict[str, float]:
    """Return path -> alpha of a PEFT config, in kohya's sense (alpha / rank is the scale); empty if it has no alphas.

    A pattern of `alpha_pattern` matches the ends of names; with `use_rslora`, PEFT divides by the root of the rank.

    Raises:
        BwlabError: a pattern is no regular expression, or one that could take very long to match.

    """
    default = config.get("lora_alpha", config.get("alpha"))
    alphas = _by_pattern(config, "alpha_pattern", default, ranks)
    return {
        path: alpha * (math.sqrt(ranks[path]) if config.get("use_rslora") else 1.0) for path, alpha in alphas.items()
    }


def _by_pattern(config: Mapping[str, object], key: str, default: object, paths: Iterable[str]) -> dict[str, float]:
    """Return path -> the number of the first pattern of a config that matches it, else the default, if it is one."""
    listed = [(_ending(pattern, key), value) for pattern, value in _items(config.get(key) or {})]
    numbers: dict[str, float] = {}
    for path in paths:
        names = _names(path)
        value = next((own for matches, own in listed if any(map(matches, names))), default)
        if isinstance(value, int | float):
            numbers[path] = float(value)
    return numbers


def _names(path: str) -> tuple[str, ...]:
    """Return the names that a module may have in its model: CLIP's transformer is below `text_model.`, or is not."""
    component = component_of(path)
    name = path.removeprefix(COMPONENTS.get(component, ""))
    return (name,) if component == UNET else (name, with_level(name, TEXT_MODEL))


def _ending(pattern: str, key: str) -> Callable[[str], bool]:
    """Return a function that tells whether a name ends with a pattern, or with `^` before it is the pattern.

    Patterns are names of modules as a rule. Others are regular expressions, which must have no repeated group and at
    most one repetition: more of these can take longer than anyone waits.
    """
    if LITERAL.fullmatch(pattern):
        whole = pattern.removeprefix("^")
        end = f".{pattern}"  # of no name if the pattern begins with `^`
        return lambda name: name == whole or name.endswith(end)
    asked, fix = f"the {key} {pattern[:100]!r}", "Write the names of the modules there"
    if len(REPETITION.findall(pattern)) > 1 or REPEATED_GROUP.search(pattern):
        raise BwlabError(asked, "a regular expression that could take very long to match", fix)
    try:
        compiled = re.compile(rf"(?:.*\.)?(?:{pattern})")
    except re.error as error:
        raise BwlabError(asked, f"no regular expression ({error})", fix) from error
    return lambda name: compiled.fullmatch(name) is not None


def _items(patterns: object) -> list[tuple[str, object]]:
    return list(patterns.items()) if isinstance(patterns, dict) else []


def _config(file: AdapterFile) -> dict[str, object]:
    """Return the config beside the file; empty if there is none."""
    path = file.path.parent / CONFIG
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        found = f"{path} next to it cannot be read: {error}"
        raise BwlabError(f"reading adapter {file.path}", found, "Repair or remove that file") from error
    return config if isinstance(config, dict) else {}


def expresses(module: ModuleWeights) -> bool:
    """Return whether the module can be written exactly: a LoRA, with or without a Tucker core, that changes no bias."""
    return module.is_lora and module.bias_leaf() is None


def write_peft(contents: AdapterContents, path: Path, dtype: str | None = None) -> None:
    """Write a folder with a folder for each adapted model, which `PeftModel.from_pretrained(subfolder=...)` reads.

    They are named as in diffusers pipelines: `unet` or `transformer`, `text_encoder`, `text_encoder_2`. Modules are
    named as in transformers since 5.6: without `text_model.` in the first text encoder, with it in the second. Files
    that an earlier adapter has there for other models are removed.
    """
    from bwlab.formats.safetensors import write_tensors

    components = by_component(contents)
    others = sorted({*COMPONENTS, TRANSFORMER} - components.keys())
    obsolete = [f"{component}/{name}" for component in others for name in (CONFIG, WEIGHTS)]
    with files_together(path, obsolete) as new:
        for component, modules in components.items():
            level = TEXT_MODEL if component == "text_encoder_2" else ""
            named = {with_level(name, level): module for name, module in modules.items()}
            make_folder(new / component)
            tensors = {f"base_model.model.{key}": tensor for key, tensor in peft_tensors(named).items()}
            write_tensors(new / component / WEIGHTS, tensors, {**contents.metadata, "format": "pt"}, dtype)
            config = {
                "peft_type": "LORA",
                "base_model_name_or_path": None,
                "inference_mode": True,
                **lora_config(named),
            }
            write_atomically(new / component / CONFIG, json.dumps(config, indent=2, sort_keys=True).encode())


def lora_config(modules: Mapping[str, ModuleWeights]) -> dict[str, object]:
    """Return the settings of PEFT's `LoraConfig` for modules whose alpha is their rank, by their names in the model.

    PEFT looks names up by their ends: one that is the end of another name is written with `^` before it.
    """
    ranks = {name: module.rank() or 0 for name, module in modules.items()}
    listed = sorted(ranks.values())
    common = max(listed, key=listed.count)
    others = {_pattern(name, ranks): rank for name, rank in ranks.items() if rank != common}
    return {
        "r": common,
        "lora_alpha": common,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": False,
    }


def _pattern(name: str, names: Collection[str]) -> str:
    """Return the pattern that matches one of these names alone, as PEFT reads it."""
    return f"^{name}" if any(other.endswith(f".{name}") for other in names) else name


def by_component(contents: AdapterContents) -> dict[str, dict[str, ModuleWeights]]:
    """Return component -> module name in it -> module, ready to be written; components without modules are left out."""
    from bwlab.formats.lora_form import without_core
    from bwlab.formats.modules import with_unit_scale

    own = scheme_in(contents.metadata, ())
    is_transformer = contents.architecture in TRANSFORMERS or (own is not None and own.denoiser == TRANSFORMER)
    components: dict[str, dict[str, ModuleWeights]] = {}
    for path, module in contents.modules.items():
        component = component_of(path)
        name = path.removeprefix(COMPONENTS[component])
        if component == UNET and is_transformer:
            component = TRANSFORMER
        components.setdefault(component, {})[name] = with_unit_scale(without_core(module))
    return components


def with_level(name: str, level: str) -> str:
    """Return the name of a text encoder's module below `level`, which may be empty."""
    outside = name == "text_projection" or name.startswith(T5_BLOCKS)
    return name if outside else level + name.removeprefix(TEXT_MODEL)


def peft_tensors(modules: Mapping[str, ModuleWeights]) -> dict[str, LazyTensor]:
    """Return the factors of LoRA modules by PEFT's keys, `<name>.lora_A.weight`."""
    return {
        f"{name}.{_WRITTEN_LEAVES[leaf]}": tensor
        for name, module in modules.items()
        for leaf, tensor in module.leaves.items()
        if leaf in _WRITTEN_LEAVES
    }


READERS = (
    FormatReader(
        "peft",
        "PEFT: base_model.model.<path>.lora_A.weight, alpha in adapter_config.json",
        recognises,
        fallback=True,
        keys=KeyParser(split, path_of_name, alphas_beside, scales_beside),
    ),
)
WRITERS = (
    FormatWriter(
        "peft", "a folder with PEFT's own for each model; LoRA and LoCon only", expresses, write_peft, folder=True
    ),
)
