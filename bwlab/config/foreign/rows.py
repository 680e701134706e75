"""A row of a table of options of another trainer: what the option is here, or why there is none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum


class Takes(Enum):
    """What follows an option."""

    SWITCH = "nothing"
    WHOLE = "a whole number"
    NUMBER = "a number"
    TEXT = "a text"
    TEXTS = "texts"
    ANY = "any value"


class Place(Enum):
    """Where an option is found here."""

    HERE = "translated"
    UNNEEDED = "not needed"
    LACKING = "not available"


@dataclass(frozen=True)
class Row:
    """An option of another trainer.

    Attributes:
        name: its name there, dotted where it lies in a table: `network.linear`.
        takes: what follows it.
        place: whether it is translated.
        says: what it is here, as it is typed; or why it is not needed or not available.
        fix: what to do instead of an option that is not available; remarks on one that is translated.
        key: the setting that has the same value; empty where the translation depends on more than this value.
        default: its value there if it is not given; it is not worth a message where it changes nothing.

    """

    name: str
    takes: Takes
    place: Place
    says: str
    fix: str = ""
    key: str = ""
    default: object = None

    @property
    def hint(self) -> str:
        """What the option is here, as the end of "Here it is ..."."""
        return self.says if self.place is Place.HERE else f"{self.place.value}: {self.says}. {self.fix}".strip(". ")

    def within(self, table: str) -> Row:
        """Return the row of the same option in a table: `linear` becomes `network.linear`."""
        return replace(self, name=f"{table}.{self.name}")


def here(name: str, takes: Takes, says: str, key: str = "", remark: str = "", default: object = None) -> Row:
    """Return the row of an option that is translated; `key` is the setting that takes its value as it is."""
    return Row(name, takes, Place.HERE, says, remark, key, default)


def unneeded(names: str, takes: Takes, why: str, default: object = None) -> Iterator[Row]:
    """Yield the rows of options, separated by spaces, that change nothing here or happen in any case."""
    for name in names.split():
        yield Row(name, takes, Place.UNNEEDED, why, default=default)


def lacking(names: str, takes: Takes, why: str, fix: str, default: object = None) -> Iterator[Row]:
    """Yield the rows of options, separated by spaces, that are not available here."""
    for name in names.split():
        yield Row(name, takes, Place.LACKING, why, fix, default=default)
