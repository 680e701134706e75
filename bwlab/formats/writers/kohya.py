"""Writes kohya's keys, with diffusers names or with those of the original Stable Diffusion code.

Every algorithm is written as it is. One alpha serves all modules whose alpha is a scale; leaves take up the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bwlab.errors import BwlabError
from bwlab.formats.encoding import in_dtype
from bwlab.formats.keys import ALPHA, kohya_name_of, path_of
from bwlab.formats.ldm_names import ldm_name_of
from bwlab.formats.scaling import with_one_alpha
from bwlab.formats.tensor_file import write_tensors

if TYPE_CHECKING:
    from bwlab.formats.contents import AdapterContents
    from bwlab.formats.module_weights import ModuleWeights
    from bwlab.formats.tensors import LazyTensor


def write_kohya(contents: AdapterContents, path: Path, dtype: str | None = None) -> None:
    """Writes modules and metadata to a `.safetensors` file whose modules have their diffusers names."""
    two = has_two_encoders(contents)
    _write(contents, path, dtype, lambda module: kohya_name_of(module, two))


def write_ldm(contents: AdapterContents, path: Path, dtype: str | None = None) -> None:
    """Writes modules and metadata to a `.safetensors` file whose modules have the original code's names."""
    architecture = "sdxl" if has_two_encoders(contents) else contents.architecture
    _write(contents, path, dtype, lambda module: _ldm_name(module, architecture))


def has_two_encoders(contents: AdapterContents) -> bool:
    """Whether it is for a model with two text encoders, which kohya's names number."""
    return contents.architecture == "sdxl" or any(module.startswith("te2.") for module in contents.modules)


def kohya_tensors(modules: Iterable[ModuleWeights], name_of: Callable[[str], str]) -> dict[str, LazyTensor]:
    """The tensors of a file by key, alphas in float32 among them; `BwlabError` if two modules share a name."""
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
    modules = with_one_alpha(contents.modules.values())
    write_tensors(path, kohya_tensors(modules, name_of), contents.metadata, dtype)


def _ldm_name(path: str, architecture: str) -> str:
    name = ldm_name_of(path, architecture)
    if path_of(name) != path:
        raise BwlabError(
            f"an LDM name for {path}", f"{name} means {path_of(name)} in models of the usual size", "Write kohya's form"
        )
    return name
