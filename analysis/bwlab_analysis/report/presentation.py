"""The presentation of a result: its tables and sentences, built once and shown on a terminal or as a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from bwlab.tables import Table

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class BlockMap:
    """A drawing of the UNet's blocks, coloured by one of several measures; pages have it, terminals do not.

    Attributes:
        measures: measure -> block -> value.

    """

    measures: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Listing:
    """Lines of a list."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Verbatim:
    """Lines to copy, such as options of a command; they are not wrapped."""

    lines: tuple[str, ...]


Item: TypeAlias = str | Table | Listing | Verbatim | BlockMap
"""A paragraph, or one of the others."""


@dataclass(frozen=True)
class Section:
    """Items under a heading.

    Attributes:
        title: the heading.
        items: from top to bottom.
        page_only: whether a terminal leaves the section out.

    """

    title: str
    items: tuple[Item, ...]
    page_only: bool = False


@dataclass(frozen=True)
class Presentation:
    """A result as a person reads it.

    Attributes:
        title: what was measured.
        conclusion: what follows from it; a page begins with it, and a terminal, which is read from below, ends with it.
        details: the sections that it rests on.
        parts: presentations of parts of the result, which pages have below.

    """

    title: str
    conclusion: Section
    details: tuple[Section, ...]
    parts: tuple[Presentation, ...] = ()
