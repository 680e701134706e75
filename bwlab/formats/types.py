"""Readers and writers of adapter files, as plugins register them.

Both are descriptions that are cheap to import. Their functions import what they need when they are called.
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

# Function from a file and its parsed keys to numbers by adapter path.
NumbersOf: TypeAlias = "Callable[[AdapterFile, Sequence[ParsedKey]], Mapping[str, float]]"


@dataclass(frozen=True)
class KeyParser:
    """A parser for single keys of a dialect, so that a file with keys of several dialects can be read too.

    Attributes:
        split: a function from a key to the module's name and the leaf, as the dialect writes them; None for other keys.
        path: a function from a module's name to its adapter path; None for a module that no UNet or text encoder has.
        alphas: a function from the parsed keys to alphas by path, for a dialect that stores them outside of tensors.
        scales: a function from the parsed keys to factors by path, for modules whose tensors have no rank by which an
            alpha could be divided; their deltas are multiplied by them.

    """

    split: Callable[[str], tuple[str, str] | None]
    path: Callable[[str], str | None]
    alphas: NumbersOf | None = None
    scales: NumbersOf | None = None


@dataclass(frozen=True)
class FormatReader:
    """A reader for one dialect of adapter files.

    Attributes:
        name: the name, such as `"kohya"`; unique among the readers of all installed plugins.
        summary: a description for lists, in one line.
        recognises: a function that returns whether a file with given keys and metadata has keys of the dialect.
        read: a function that returns a file's contents; see `bwlab.formats.contents.assemble`. None if `keys` is given.
        fallback: whether it is used only if no reader without this flag recognises the file, as for built-in readers.
        keys: the parser that reads the file key by key, together with the parsers of other readers.

    """

    name: str
    summary: str
    recognises: Callable[[Collection[str], Mapping[str, str]], bool]
    read: Callable[[AdapterFile], AdapterContents] | None = None
    fallback: bool = False
    keys: KeyParser | None = None

    def __post_init__(self) -> None:
        """Check that either `read` or `keys` is given."""
        if (self.read is None) == (self.keys is None):
            raise ValueError(f"the format reader {self.name} needs either read or keys")


@dataclass(frozen=True)
class FormatWriter:
    """A writer for one kind of adapter file; its name is a value of `bwlab convert --to`.

    Attributes:
        name: the name, such as `"kohya"`; unique among the writers of all installed plugins.
        summary: a description for lists, in one line.
        expresses: a function that returns whether this kind of file can hold a module exactly.
        write: function that writes modules and metadata, without embeddings, to a path, completely or not at all, with
            floats in a dtype as safetensors names it; None for each tensor's own.
        folder: whether the path is a folder rather than a `.safetensors` file.

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

    def module_of_type(self, module: ModuleWeights) -> ModuleWeights:
        """Return a module of a plugin's adapter type with the delta that the plugin computes.

        The module is returned unchanged if no installed plugin registers its type.
        """
