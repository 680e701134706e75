"""kohya's dialect and its relatives: `lora_unet_<path with underscores>.<leaf>`, LDM names, other prefixes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.blocks.paths import in_text_encoder
from bwlab.blocks.transformers import TRANSFORMERS
from bwlab.errors import BwlabError
from bwlab.formats.keys import ALPHA, UNET_PREFIX, kohya_name_of, ldm_name_of, path_of
from bwlab.formats.transformer_names import is_original_name
from bwlab.formats.types import FormatReader, FormatWriter, KeyParser

if TYPE_CHECKING:
    from bwlab.formats.contents import AdapterContents
    from bwlab.formats.modules import ModuleWeights
    from bwlab.formats.tensors import LazyTensor


KOHYA = re.compile(r"(lora_(?:unet|transformer|te|te1|te2|te3)_[^.]+)\.(.+)")
LDM = re.compile(r"lora_unet_(?:input_blocks|middle_block|output_blocks|time_embed|label_emb|out)_\d")
DOUBLED = re.compile(
    r"lora_(?:(unet)_unet|(te\d?)_(?:te\d?|text_encoder(?:_2)?))_(.+?)[._](lora_(?:down|up)\.weight|alpha)"
)
LYCORIS = re.compile(r"lycoris_([^.]+)\.(.+)")

DENOISER_PREFIXES = ("lora_unet_", "lora_transformer_")
IN_TEXT_ENCODER = ("text_model_", "encoder_layers_", "text_projection")


def recognises_kohya(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Return whether kohya's keys name UNet modules as diffusers does, or only text encoders' modules."""
    own = [key for key in keys if KOHYA.fullmatch(key) and not DOUBLED.fullmatch(key)]
    in_denoiser = [key for key in own if key.startswith(DENOISER_PREFIXES)]
    return any(not LDM.match(key) for key in in_denoiser) or (bool(own) and not in_denoiser)


def recognises_ldm(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Return whether a key has kohya's form and the original Stable Diffusion code's name of a UNet module."""
    return any(LDM.match(key) and KOHYA.fullmatch(key) for key in keys)


def recognises_doubled(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Return whether a key has the doubled prefix that some converters wrote."""
    return any(DOUBLED.fullmatch(key) for key in keys)


def recognises_lycoris(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Return whether a key has the prefix that LyCORIS uses outside of kohya's trainer."""
    return any(LYCORIS.fullmatch(key) for key in keys)


def split_kohya(key: str) -> tuple[str, str] | None:
    """Return kohya's name of the module, and the leaf."""
    match = KOHYA.fullmatch(key)
    return (match[1], match[2]) if match and not DOUBLED.fullmatch(key) and not LDM.match(key) else None


def split_ldm(key: str) -> tuple[str, str] | None:
    """Return kohya's name of a UNet module with an LDM name or of a text encoder's module, and the leaf."""
    match = KOHYA.fullmatch(key)
    return (match[1], match[2]) if match and (LDM.match(key) or not key.startswith(DENOISER_PREFIXES)) else None


def split_doubled(key: str) -> tuple[str, str] | None:
    """Return kohya's name of a module without the doubled part, and the leaf."""
    match = DOUBLED.fullmatch(key)
    return (f"lora_{match[1] or match[2]}_{match[3]}", match[4]) if match else None


def split_lycoris(key: str) -> tuple[str, str] | None:
    """Return kohya's name of the module that the key names as LyCORIS does, and the leaf."""
    match = LYCORIS.fullmatch(key)
    if match is None:
        return None
    prefix = "lora_te_" if match[1].startswith(IN_TEXT_ENCODER) else "lora_unet_"
    return prefix + match[1], match[2]


def path_or_none(name: str) -> str | None:
    """Return the adapter path of a kohya module name; None if it does not name a known module."""
    try:
        return path_of(name)
    except BwlabError:
        return None


def write_kohya(contents: AdapterContents, path: Path, dtype: str | None = None) -> None:
    """Write modules and metadata to a `.safetensors` file, of UNets with diffusers' names of modules.

    Modules of transformers have the names of the original code, and layers that are one matrix there are joined.
    """
    from bwlab.formats.modules import with_one_alpha
    from bwlab.formats.safetensors import write_tensors

    # What reads the names of transformers reads an alpha for each module.
    modules = list(contents.modules.values())
    modules = modules if contents.architecture in TRANSFORMERS else with_one_alpha(modules)
    write_tensors(path, keyed_tensors(contents, modules), contents.metadata, dtype)


def keyed_tensors(contents: AdapterContents, modules: Iterable[ModuleWeights]) -> dict[str, LazyTensor]:
    """Return the tensors of some of a file's modules by kohya's keys; `BwlabError` if two would share a name."""
    from bwlab.formats.transformer_modules import in_original_code

    if contents.architecture not in TRANSFORMERS:
        two = has_two_encoders(contents)
        return kohya_tensors(modules, lambda path: kohya_name_of(path, two))
    named = in_original_code({module.path: module for module in modules}, contents.architecture)
    return kohya_tensors(named, lambda path: _transformer_name(path, contents.architecture))


def _transformer_name(path: str, architecture: str) -> str:
    """Return kohya's name; OneTrainer's for layers that have no exact form in a matrix of the original code."""
    if not in_text_encoder(path) and is_original_name(path, architecture):
        return UNET_PREFIX + path.replace(".", "_")
    return kohya_name_of(path, two_text_encoders=True)


def write_ldm(contents: AdapterContents, path: Path, dtype: str | None = None) -> None:
    """Write modules and metadata to a `.safetensors` file, with the original code's names of a UNet's modules."""
    if contents.architecture in TRANSFORMERS:
        found = f"it is for {contents.architecture}, which that code does not have"
        raise BwlabError(f"writing {contents.path} as ldm", found, "Write it as kohya, comfyui or diffusers")
    architecture = "sdxl" if has_two_encoders(contents) else contents.architecture
    _write(contents, path, dtype, lambda module: _ldm_name(module, architecture))


def has_two_encoders(contents: AdapterContents) -> bool:
    """Return whether the file is for a model with two text encoders, which kohya's names number."""
    return contents.architecture == "sdxl" or any(module.startswith("te2.") for module in contents.modules)


def kohya_tensors(modules: Iterable[ModuleWeights], name_of: Callable[[str], str]) -> dict[str, LazyTensor]:
    """Return the tensors of a file by key, including alphas in float32; `BwlabError` if two modules share a name."""
    tensors: dict[str, LazyTensor] = {}
    for module in modules:
        for (name, leaf), tensor in module_tensors(module, name_of(module.path)).items():
            key = f"{name}.{leaf}"
            if key in tensors:
                found = f"two modules would be named {name}, one of them {module.path}"
                raise BwlabError(f"writing {module.source or 'an adapter'}", found, "Choose another form to write")
            tensors[key] = tensor
    return tensors


def module_tensors(module: ModuleWeights, name: str) -> dict[tuple[str, str], LazyTensor]:
    """Return the tensors of a module by its name in a file and the leaf, including alpha in float32."""
    import numpy as np

    from bwlab.formats.tensors import in_dtype

    leaves = {(name, leaf): tensor for leaf, tensor in module.leaves.items()}
    if module.alpha is not None:
        leaves[name, ALPHA] = in_dtype(np.array(module.alpha), "F32", f"{name}.{ALPHA}")
    return leaves


def _write(contents: AdapterContents, path: Path, dtype: str | None, name_of: Callable[[str], str]) -> None:
    from bwlab.formats.modules import with_one_alpha
    from bwlab.formats.safetensors import write_tensors

    modules = with_one_alpha(contents.modules.values())
    write_tensors(path, kohya_tensors(modules, name_of), contents.metadata, dtype)


def _ldm_name(path: str, architecture: str) -> str:
    name = ldm_name_of(path, architecture)
    if path_of(name) != path:
        raise BwlabError(
            f"an LDM name for {path}", f"{name} means {path_of(name)} in models of the usual size", "Write kohya's form"
        )
    return name


def _anything(module: ModuleWeights) -> bool:
    return True


READERS = (
    FormatReader(
        "kohya",
        "kohya's keys: lora_unet_<path>.<leaf>; transformers by names such as lora_unet_double_blocks_0_...",
        recognises_kohya,
        fallback=True,
        keys=KeyParser(split_kohya, path_or_none),
    ),
    FormatReader(
        "ldm",
        "kohya's keys with the original Stable Diffusion names: lora_unet_input_blocks_...",
        recognises_ldm,
        fallback=True,
        keys=KeyParser(split_ldm, path_or_none),
    ),
    FormatReader(
        "kohya-doubled",
        "kohya's keys as some converters spoilt them: lora_unet_unet_..._lora_down.weight",
        recognises_doubled,
        fallback=True,
        keys=KeyParser(split_doubled, path_or_none),
    ),
    FormatReader(
        "lycoris",
        "LyCORIS outside of kohya's trainer: lycoris_<path>.<leaf>",
        recognises_lycoris,
        fallback=True,
        keys=KeyParser(split_lycoris, path_or_none),
    ),
)
WRITERS = (
    FormatWriter(
        "kohya", "kohya's keys; A1111, Forge, ComfyUI, kohya's trainer and diffusers read it", _anything, write_kohya
    ),
    FormatWriter(
        "ldm",
        "kohya's keys with the original code's names, as kohya's trainer has them for SDXL",
        _anything,
        write_ldm,
    ),
)
