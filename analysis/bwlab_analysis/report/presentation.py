"""The presentation of a result: tables and sentences, built once and shown on a terminal or as a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from bwlab.tables import Table


@dataclass(frozen=True)
class BlockMap:
    """A drawing of the UNet's blocks, coloured by one of several measures; shown on pages but not on terminals.

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
"""A paragraph, or one of the other kinds of items."""


@dataclass(frozen=True)
class Section:
    """Items under a heading.

    Attributes:
        title: the heading.
        items: items from top to bottom.
        page_only: whether a terminal leaves the section out.
        detail: whether a terminal shows the section only if details are requested.

    """

    title: str
    items: tuple[Item, ...]
    page_only: bool = False
    detail: bool = False


@dataclass(frozen=True)
class Presentation:
    """A result in a form for people to read.

    Attributes:
        title: name of the measurement.
        conclusion: the conclusion; a page begins with it, and the output on a terminal ends with it.
        details: the sections that support the conclusion.
        parts: presentations of parts of the result, which a page shows below.
        short: whether the output on a terminal begins with the conclusion too, as it is short without its details.

    """

    title: str
    conclusion: Section
    details: tuple[Section, ...]
    parts: tuple[Presentation, ...] = ()
    short: bool = False
