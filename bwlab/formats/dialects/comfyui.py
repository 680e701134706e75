"""Names of the original code of transformers with dots: ComfyUI's and ai-toolkit's files, and XLabs' processors.

`diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight` is read by `dotted` and written here;
`double_blocks.0.processor.qkv_lora1.down.weight` (XLabs: 1 is the image's stream, 2 the text's) is read here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.blocks.transformers import TRANSFORMERS
from bwlab.errors import BwlabError
from bwlab.formats.dialects.kohya import path_or_none
from bwlab.formats.keys import ALPHA, DOWN, UP, is_t5
from bwlab.formats.transformer_names import is_original_name
from bwlab.formats.types import FormatReader, FormatWriter, KeyParser

if TYPE_CHECKING:
    from bwlab.formats.contents import AdapterContents
    from bwlab.formats.modules import ModuleWeights
    from bwlab.formats.tensors import LazyTensor


XLABS = re.compile(
    r"(?:diffusion_model\.)?(double|single)_blocks\.(\d+)\.processor\.(qkv|proj)_lora([12]?)\.(down|up)\.weight"
)
XLABS_NAMES = {
    ("double", "qkv", "1"): "img_attn.qkv",
    ("double", "qkv", "2"): "txt_attn.qkv",
    ("double", "proj", "1"): "img_attn.proj",
    ("double", "proj", "2"): "txt_attn.proj",
    ("single", "qkv", ""): "qkv",
    ("single", "proj", ""): "linear2",
}
PREFIX = "diffusion_model."
TEXT_PREFIXES = {
    "te.": "text_encoders.clip_l.transformer.text_model.",
    "te2.": "text_encoders.clip_g.transformer.text_model.",
}
T5_PREFIX = "text_encoders.t5xxl.transformer."
WRITTEN_LEAVES = {DOWN: "lora_A.weight", UP: "lora_B.weight"}


def recognises_xlabs(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Return whether a key is that of an attention processor in XLabs' FLUX code."""
    return any(XLABS.fullmatch(key) for key in keys)


def split_xlabs(key: str) -> tuple[str, str] | None:
    """Return the name of the module in the original code, and the leaf."""
    match = XLABS.fullmatch(key)
    name = XLABS_NAMES.get((match[1], match[3], match[4])) if match else None
    if match is None or name is None:
        return None
    return f"{match[1]}_blocks.{match[2]}.{name}", DOWN if match[5] == "down" else UP


def expresses(module: ModuleWeights) -> bool:
    """Return whether the module can be written exactly, with the leaves of its algorithm."""
    return True


def write_comfyui(contents: AdapterContents, path: Path, dtype: str | None = None) -> None:
    """Write modules and metadata to a `.safetensors` file with the original code's names and dots.

    Factors of LoRAs are `lora_A` and `lora_B`, with alpha equal to the rank, so that no alpha is needed.
    """
    from bwlab.formats.dialects.kohya import module_tensors
    from bwlab.formats.modules import with_unit_scale
    from bwlab.formats.safetensors import write_tensors
    from bwlab.formats.transformer_modules import in_original_code

    if contents.architecture not in TRANSFORMERS:
        found = f"it is for {contents.architecture}, and this form is one of transformers"
        raise BwlabError(f"writing {contents.path} as comfyui", found, "Write it as kohya, which ComfyUI reads too")
    tensors: dict[str, LazyTensor] = {}
    for module in in_original_code(contents.modules, contents.architecture):
        plain = module.algorithm == "lora"
        written = dataclasses.replace(with_unit_scale(module), alpha=None) if plain else module
        leaves = {leaf: WRITTEN_LEAVES.get(leaf, leaf) for leaf in (*written.leaves, ALPHA)} if plain else {}
        for (name, leaf), tensor in module_tensors(written, comfyui_name(module.path, contents.architecture)).items():
            tensors[f"{name}.{leaves.get(leaf, leaf)}"] = tensor
    write_tensors(path, tensors, {**contents.metadata, "format": "pt"}, dtype)


def comfyui_name(path: str, architecture: str) -> str:
    """Return the name of a module, given its name in the original code or its path in a text encoder.

    Modules that the original code cannot name, as their matrix is fused there, keep the path of diffusers.
    """
    if is_t5(path):
        return T5_PREFIX + path.partition(".")[2]
    for mark, prefix in TEXT_PREFIXES.items():
        if path.startswith(mark):
            return prefix + path.removeprefix(mark)
    return (PREFIX if is_original_name(path, architecture) else "transformer.") + path


READERS = (
    FormatReader(
        "xlabs",
        "XLabs' FLUX adapters: double_blocks.0.processor.qkv_lora1.down.weight",
        recognises_xlabs,
        fallback=True,
        keys=KeyParser(split_xlabs, lambda name: path_or_none(f"lora_unet_{name}")),
    ),
)
WRITERS = (
    FormatWriter(
        "comfyui",
        "the original code's names with dots, for transformers; ComfyUI, ai-toolkit and diffusers read it",
        expresses,
        write_comfyui,
    ),
)
