"""Readers and writers of adapter files, as plugins register them.

Both are descriptions that cost nothing to import. The functions in them import what they need when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    from bwlab.formats.contents import AdapterContents, ParsedKey
    from bwlab.formats.modules import ModuleWeights
    from bwlab.formats.safetensors import AdapterFile


@dataclass(frozen=True)
class KeyParser:
    """How the keys of a dialect are read one by one, so that a file with keys of several dialects is read too.

    Attributes:
        split: key -> the name of its module and the leaf, both as the dialect writes them; None for any other key.
        path: name of a module -> its adapter path; None for a module that no UNet or text encoder has.
        alphas: the alphas that the dialect keeps elsewhere than in tensors, by path, given the keys that it parsed.

    """

    split: Callable[[str], tuple[str, str] | None]
    path: Callable[[str], str | None]
    alphas: Callable[[AdapterFile, Sequence[ParsedKey]], Mapping[str, float]] | None = None


@dataclass(frozen=True)
class FormatReader:
    """Reads one dialect of adapter files.

    Attributes:
        name: e.g. `"kohya"`; unique among the readers of all installed plugins.
        summary: one line for lists.
        recognises: whether a file with these keys and this metadata has keys of the dialect.
        read: returns the contents of a file; see `bwlab.formats.contents.assemble`. None where `keys` is given.
        fallback: whether it is asked only where no reader without this mark recognises the file; built-in ones are.
        keys: reads the file key by key, together with other readers that do.

    """

    name: str
    summary: str
    recognises: Callable[[Collection[str], Mapping[str, str]], bool]
    read: Callable[[AdapterFile], AdapterContents] | None = None
    fallback: bool = False
    keys: KeyParser | None = None

    def __post_init__(self) -> None:
        """Check that there is one way to read."""
        if (self.read is None) == (self.keys is None):
            raise ValueError(f"the format reader {self.name} needs either read or keys")


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
