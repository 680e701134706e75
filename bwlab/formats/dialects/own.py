"""Adapters of a plugin's model family: `<family>.<path of the module>.<leaf>`, with the leaves of PEFT and LyCORIS."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.blocks.paths import COMPONENTS, UNET, component_of
from bwlab.formats.dialects.comfyui import WRITTEN_LEAVES
from bwlab.formats.dialects.dotted import LEAF
from bwlab.formats.dialects.kohya import module_tensors
from bwlab.formats.types import FormatReader, FormatWriter, KeyParser

if TYPE_CHECKING:
    from bwlab.formats.contents import AdapterContents
    from bwlab.formats.modules import ModuleWeights
    from bwlab.formats.tensors import LazyTensor

_MARKS = {name: mark for name, mark in COMPONENTS.items() if mark}


def own_name(family: str, path: str) -> str:
    """Return the name of a module in the files of a plugin's family.

    >>> own_name("toy", "blocks.1.0"), own_name("toy", "te.encoder.block.0.layer.0.SelfAttention.q")
    ('toy.blocks.1.0', 'text_encoder.encoder.block.0.layer.0.SelfAttention.q')
    """
    component = component_of(path)
    return f"{family if component == UNET else component}.{path.removeprefix(COMPONENTS[component])}"


def reader_of(family: str, leaves: Iterable[str] = ()) -> FormatReader:
    """Return the reader of the adapters that `bwlab train` writes for a family's models.

    Args:
        family: its name.
        leaves: further leaves, those of the installed adapter types.

    """
    known = "|".join([LEAF, *map(re.escape, sorted(leaves, key=len, reverse=True))])
    pattern = re.compile(rf"({re.escape(family)}|{'|'.join(_MARKS)})\.(.+?)\.({known})")

    def split(key: str) -> tuple[str, str] | None:
        match = pattern.fullmatch(key)
        return (_MARKS.get(match[1], "") + match[2], match[3]) if match else None

    return FormatReader(
        family,
        f"adapters of the model family {family}: {family}.<path>.lora_A.weight",
        lambda keys, metadata: any(key.startswith(f"{family}.") and split(key) for key in keys),
        keys=KeyParser(split, lambda name: name),
    )


def writer_of(family: str) -> FormatWriter:
    """Return the writer of the same files, for `bwlab convert` and `merge`."""

    def write(contents: AdapterContents, path: Path, dtype: str | None = None) -> None:
        from bwlab.formats.safetensors import write_tensors

        tensors: dict[str, LazyTensor] = {}
        for module in contents.modules.values():
            tensors |= _tensors(module, own_name(family, module.path))
        write_tensors(path, tensors, {**contents.metadata, "format": "pt"}, dtype)

    summary = f"adapters of the model family {family}, as bwlab train writes them"
    return FormatWriter(family, summary, lambda module: True, write)


def _tensors(module: ModuleWeights, name: str) -> dict[str, LazyTensor]:
    """Return the tensors of a module by key; those of a LoRA have no alpha, as its scale is in up."""
    from bwlab.formats.modules import with_unit_scale

    if module.algorithm != "lora":
        return {f"{name}.{leaf}": tensor for (_, leaf), tensor in module_tensors(module, name).items()}
    written = dataclasses.replace(with_unit_scale(module), alpha=None)
    return {f"{name}.{WRITTEN_LEAVES.get(leaf, leaf)}": tensor for leaf, tensor in written.leaves.items()}
