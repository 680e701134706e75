"""kohya's dialect and its relatives: `lora_unet_<path with underscores>.<leaf>`, LDM names, other prefixes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError
from bwlab.formats.keys import ALPHA, kohya_name_of, ldm_name_of, path_of
from bwlab.formats.types import FormatReader, FormatWriter

if TYPE_CHECKING:
    from bwlab.formats.contents import AdapterContents
    from bwlab.formats.modules import ModuleWeights
    from bwlab.formats.safetensors import AdapterFile
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
    """Return the contents of a file of kohya's keys with diffusers names."""
    return _read(file, "kohya")


def read_ldm(file: AdapterFile) -> AdapterContents:
    """Return the contents of a file of kohya's keys with LDM names; text encoders are named as ever."""
    return _read(file, "ldm")


def read_doubled(file: AdapterFile) -> AdapterContents:
    """Return the contents of a file with keys such as `lora_unet_unet_conv_in_lora_down.weight`."""
    return _read(file, "kohya-doubled")


def read_lycoris(file: AdapterFile) -> AdapterContents:
    """Return the contents of a file with keys such as `lycoris_conv_in.lokr_w1`."""
    return _read(file, "lycoris")


def bundled_embeddings(file: AdapterFile) -> dict[str, LazyTensor]:
    """Return token -> embedding, of those that trainers put beside an adapter; those of `clip_g` start with `te2:`."""
    embeddings = {}
    for key in file.entries:
        match = BUNDLED.fullmatch(key)
        if match:
            embeddings[f"te2:{match[1]}" if match[3] else match[1]] = file.tensor(key)
    return embeddings


def _read(file: AdapterFile, dialect: str) -> AdapterContents:
    from bwlab.formats.contents import ParsedKey, assemble

    embeddings = bundled_embeddings(file)
    parsed, unknown = [], []
    paths: dict[str, str | None] = {}
    for key in file.entries:
        name, leaf = _split(key, dialect)
        if name not in paths:
            paths[name] = _path(name)
        path = paths[name]
        if path is not None:
            parsed.append(ParsedKey(key, path, leaf))
        elif not BUNDLED.fullmatch(key):
            unknown.append(key)
    return assemble(file, dialect, parsed, embeddings=embeddings, unknown=unknown)


def _split(key: str, dialect: str) -> tuple[str, str]:
    """Kohya's module name and the leaf; empty where the key is of another form."""
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


def write_kohya(contents: AdapterContents, path: Path, dtype: str | None = None) -> None:
    """Write modules and metadata to a `.safetensors` file whose modules have their diffusers names."""
    two = has_two_encoders(contents)
    _write(contents, path, dtype, lambda module: kohya_name_of(module, two))


def write_ldm(contents: AdapterContents, path: Path, dtype: str | None = None) -> None:
    """Write modules and metadata to a `.safetensors` file whose modules have the original code's names."""
    architecture = "sdxl" if has_two_encoders(contents) else contents.architecture
    _write(contents, path, dtype, lambda module: _ldm_name(module, architecture))


def has_two_encoders(contents: AdapterContents) -> bool:
    """Whether it is for a model with two text encoders, which kohya's names number."""
    return contents.architecture == "sdxl" or any(module.startswith("te2.") for module in contents.modules)


def kohya_tensors(modules: Iterable[ModuleWeights], name_of: Callable[[str], str]) -> dict[str, LazyTensor]:
    """Return the tensors of a file by key, alphas in float32 among them; `BwlabError` if two modules share a name."""
    import numpy as np

    from bwlab.formats.tensors import in_dtype

    tensors: dict[str, LazyTensor] = {}
    for module in modules:
        name = name_of(module.path)
        leaves = dict(module.leaves)
        if module.alpha is not None:
            leaves[ALPHA] = in_dtype(np.array(module.alpha, np.float32), "F32", f"{name}.{ALPHA}")
        for leaf, tensor in leaves.items():
            key = f"{name}.{leaf}"
            if key in tensors:
                found = f"two modules would be named {name}, one of them {module.path}"
                raise BwlabError(f"writing {module.source or 'an adapter'}", found, "Choose another form to write")
            tensors[key] = tensor
    return tensors


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
        "kohya's keys with diffusers names: lora_unet_<path>.<leaf>",
        recognises_kohya,
        read_kohya,
        fallback=True,
    ),
    FormatReader(
        "ldm",
        "kohya's keys with the original Stable Diffusion names: lora_unet_input_blocks_...",
        recognises_ldm,
        read_ldm,
        fallback=True,
    ),
    FormatReader(
        "kohya-doubled",
        "kohya's keys as some converters spoilt them: lora_unet_unet_..._lora_down.weight",
        recognises_doubled,
        read_doubled,
        fallback=True,
    ),
    FormatReader(
        "lycoris",
        "LyCORIS outside of kohya's trainer: lycoris_<path>.<leaf>",
        recognises_lycoris,
        read_lycoris,
        fallback=True,
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
