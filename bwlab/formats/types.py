"""Readers and writers of adapter files, as plugins register them.

Both are descriptions that cost nothing to import. The functions in them import what they need when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    from bwlab.formats.contents import AdapterContents
    from bwlab.formats.modules import ModuleWeights
    from bwlab.formats.safetensors import AdapterFile


@dataclass(frozen=True)
class FormatReader:
    """Reads one dialect of adapter files.

    Attributes:
        name: e.g. `"kohya"`; unique among the readers of all installed plugins.
        summary: one line for lists.
        recognises: whether a file with these keys and this metadata is of the dialect.
        read: returns the contents of a file; see `bwlab.formats.contents.assemble`.
        fallback: whether it is asked only where no reader without this mark recognises the file; built-in ones are.

    """

    name: str
    summary: str
    recognises: Callable[[Collection[str], Mapping[str, str]], bool]
    read: Callable[[AdapterFile], AdapterContents]
    fallback: bool = False


@dataclass(frozen=True)
class FormatWriter:
    """Writes one kind of adapter file; its name is a value of `bwlab convert --to`.

    Attributes:
        name: e.g. `"kohya"`; unique among the writers of all installed plugins.
        summary: one line for lists.
        expresses: whether the kind of file can hold a module exactly.
        write: writes modules and metadata, no embeddings, to a path, completely or not at all, with floats in a dtype
            as safetensors names it; None: each in its own.
        folder: whether the path is a folder's rather than a `.safetensors` file's.

    """

    name: str
    summary: str
    expresses: Callable[[ModuleWeights], bool]
    write: Callable[[AdapterContents, Path, str | None], None]
    folder: bool = False


FormatType: TypeAlias = FormatReader | FormatWriter


class Formats(Protocol):
    """The source of formats: the plugin manager."""

    def formats(self) -> tuple[FormatType, ...]:
        """Return readers and writers."""
