"""What is in an adapter file of any dialect, without torch: modules by path, read one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bwlab.formats.module_weights import ModuleWeights
from bwlab.formats.tensors import LazyTensor

if TYPE_CHECKING:
    from bwlab.registry import FormatType

__all__ = ["AdapterContents", "Formats", "LazyTensor", "ModuleWeights", "read_contents"]


class Formats(Protocol):
    """Whatever knows the formats: the plugin manager."""

    def formats(self) -> tuple[FormatType, ...]:
        """Readers and writers."""


@dataclass(frozen=True, eq=False)
class AdapterContents:
    """An adapter file, whatever tool wrote it.

    Attributes:
        path: of the file.
        dialect: name of the reader that understood it, e.g. `"kohya"`.
        architecture: `"sd1"`, `"sd2"`, `"sdxl"` or `"unknown"`.
        modules: path -> module, in the file's order.
        embeddings: token (`"<s1>"`) -> embeddings `(width,)` or `(tokens, width)`; of SDXL's second encoder the name
            starts with `te2:`.
        metadata: the file's own.
        unknown: keys that nobody understands, in the file's order.
    """

    path: Path
    dialect: str
    architecture: str
    modules: Mapping[str, ModuleWeights]
    embeddings: Mapping[str, LazyTensor]
    metadata: Mapping[str, str]
    unknown: tuple[str, ...]


def read_contents(path: str | Path, manager: Formats | None = None, *, pickles: bool = False) -> AdapterContents:
    """What is in an adapter file: the header and the alphas; other numbers are read when they are asked for.

    Args:
        path: a safetensors file; its dialect is found from its keys.
        manager: asked for the readers of formats, plugins' included; None: the built-in readers alone.
        pickles: whether to read `.pt` and `.bin` files too, through torch's weights-only loader.

    Raises:
        BwlabError: the file is missing, broken, a pickle that is not wanted or wants to run code, of no or of several
            known dialects, or its tensors do not make modules.
    """
    # Readers make contents, so they import this module.
    from bwlab.formats.readers import read_file

    return read_file(Path(path), manager, pickles)
