"""What plugins register: adapter types, block schemes, readers and writers of adapter files, taggers of pictures.

All are descriptions that cost nothing to import. The functions in them import what they need when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from bwlab.adapters.layer import AdapterLayer, BaseLayer
    from bwlab.blocks.scheme import BlockScheme
    from bwlab.formats.contents import AdapterContents
    from bwlab.formats.files import AdapterFile
    from bwlab.formats.module_weights import ModuleWeights


Options: TypeAlias = Mapping[str, object]
# From the options that the user gave and the layers to be adapted, by path: the options of each layer, by path.
PrepareOptions: TypeAlias = Callable[[Options, Mapping[str, "BaseLayer"]], Mapping[str, Options]]


@dataclass(frozen=True)
class AdapterType:
    """A kind of adapter, as ``--adapter NAME`` names it.

    Attributes:
        name: e.g. ``"lora"``; unique among all installed plugins.
        summary: one line for lists.
        leaves: the endings of its keys in a file, e.g. ``("lora_down.weight", "lora_up.weight", "alpha")``.
        needs_base_weight: whether ``delta()`` needs the weight of the layer it adapts.
        load: returns the layer class; imports torch only when called.
        targets: whether a layer is adapted, from its path in the model and its kind: ``"linear"``, ``"conv"`` or
            ``"conv1x1"``.
        options: names of the options that a user may give beyond rank and alpha.
        prepare: turns them into those of each layer's ``create()``; None: every layer gets them as they are.
    """

    name: str
    summary: str
    leaves: tuple[str, ...]
    needs_base_weight: bool
    load: Callable[[], type[AdapterLayer]]
    targets: Callable[[str, str], bool]
    options: tuple[str, ...] = ()
    prepare: PrepareOptions | None = None


@dataclass(frozen=True)
class SchemeFinder:
    """Knows the blocks of one family of models.

    Attributes:
        name: e.g. ``"sd"``; unique among all installed plugins.
        summary: one line for lists.
        find: the block scheme of a model with this config, or None if the model is of another family.
    """

    name: str
    summary: str
    find: Callable[[Mapping[str, object]], BlockScheme | None]

    def __call__(self, config: Mapping[str, object]) -> BlockScheme | None:
        """Return the block scheme of a model with ``config``, or None if it is of another family."""
        return self.find(config)


@dataclass(frozen=True)
class FormatReader:
    """Reads one dialect of adapter files.

    Attributes:
        name: e.g. ``"kohya"``; unique among the readers of all installed plugins.
        summary: one line for lists.
        recognises: whether a file with these keys and this metadata is of the dialect.
        read: what is in the file, ``bwlab.formats.assemble.assemble`` helps; raises ``BwlabError`` if it is broken.
        fallback: asked only where no reader without this mark recognises the file, as the built-in ones are.
    """

    name: str
    summary: str
    recognises: Callable[[Collection[str], Mapping[str, str]], bool]
    read: Callable[[AdapterFile], AdapterContents]
    fallback: bool = False


@dataclass(frozen=True)
class FormatWriter:
    """Writes one kind of adapter file; its name is a value of ``bwlab convert --to``.

    Attributes:
        name: e.g. ``"kohya"``; unique among the writers of all installed plugins.
        summary: one line for lists.
        expresses: whether the kind of file can hold a module exactly.
        write: writes modules and metadata, no embeddings, to a path, completely or not at all, with floats in a dtype
            as safetensors names it; None: each in its own.
        folder: whether the path is a folder's rather than a ``.safetensors`` file's.
    """

    name: str
    summary: str
    expresses: Callable[[ModuleWeights], bool]
    write: Callable[[AdapterContents, Path, str | None], None]
    folder: bool = False


@dataclass(frozen=True)
class Tag:
    """One tag of a picture.

    Attributes:
        text: as it stands in the caption, without commas.
        score: how sure the tagger is, 0..1.
    """

    text: str
    score: float


Describe: TypeAlias = Callable[[Sequence["Image"]], list[list[Tag]]]


@dataclass(frozen=True)
class Tagger:
    """Describes pictures in tags, as ``bwlab tag --tagger NAME`` asks it to.

    Attributes:
        name: e.g. ``"wd14"``; unique among all installed plugins.
        summary: one line for lists.
        load: from the options given, by name, as they were typed: what gives the tags of pictures in RGB, one list for
            each, in the order in which they are to be written. Imports its models only then; raises ``BwlabError`` for
            a wrong option.
        options: the names that it knows.
    """

    name: str
    summary: str
    load: Callable[[Mapping[str, str]], Describe]
    options: tuple[str, ...] = ()


FormatType: TypeAlias = FormatReader | FormatWriter
Registration: TypeAlias = AdapterType | SchemeFinder | FormatReader | FormatWriter | Tagger
