"""Groups of settings whose values are checked when they are made."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bwlab.errors import BwlabError, did_you_mean

Number = TypeVar("Number", int, float)

NAMES: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    tuple[str, ...]: "a list of texts",
    object: "a text, a number, true, false or a list of these",
}


class SettingError(BwlabError):
    """A setting with a value it cannot have.

    Args:
        key: the setting's name within its section.
        value: what it was set to.
        found: what is wrong with that.
        fix: what to give instead.

    """

    def __init__(self, key: str, value: object, found: str, fix: str) -> None:
        super().__init__(f"{key} = {value}", found, fix)
        self.key = key


def bounded(
    default: Number, *, least: float | None = None, above: float | None = None, most: float | None = None
) -> Number:
    """Return a dataclass field for a number with bounds, which `Section` checks."""
    return field(default=default, metadata={"least": least, "above": above, "most": most})


def maybe(*, least: float | None = None, above: float | None = None, most: float | None = None) -> Any:
    """Return a dataclass field, None by default, for a number with bounds, which `Section` checks."""
    return field(default=None, metadata={"least": least, "above": above, "most": most})


def choice(default: str, *choices: str) -> str:
    """Return a dataclass field for one of several words, which `Section` checks."""
    return field(default=default, metadata={"choices": choices})


def check_number(key: str, value: float, bounds: Mapping[str, float | None]) -> None:
    """Raise SettingError unless `value` is finite and within `bounds` (`least`, `above`, `most`)."""
    least, above, most = (bounds.get(name) for name in ("least", "above", "most"))
    wanted = [f"at least {least:g}"] if least is not None else []
    wanted += [f"above {above:g}"] if above is not None else []
    wanted += [f"at most {most:g}"] if most is not None else []
    inside = (
        math.isfinite(value)
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
    )
    if not inside:
        rule = " and ".join(["a finite number", *wanted])
        raise SettingError(key, value, "out of range", f"Give {rule}")


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    """Raise SettingError, with the nearest choice, unless `value` is one of `choices`."""
    if value not in choices:
        raise SettingError(key, value, "unknown", f"{did_you_mean(value, choices)}Choose from {', '.join(choices)}")


@dataclass(frozen=True)
class Section:
    """A group of settings whose numbers and words are checked."""

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            value = self.__dict__[entry.name]
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                check_number(entry.name, value, entry.metadata)
            if "choices" in entry.metadata:
                check_choice(entry.name, value, entry.metadata["choices"])


@dataclass(frozen=True)
class Typed:
    """A value as it was typed on the command line."""

    text: str


def converted(key: str, value: object, kind: object, origin: str) -> object:
    """Return `value` as `kind`: int, float, bool, str, a tuple of texts, one of these or None, or anything.

    A whole number serves as a float and a number as a text; nothing else changes its kind.

    Raises:
        BwlabError: it is of another kind; the message names `key` and `origin`.

    """
    plain = without_none(kind)
    found = typed_value(value.text, plain) if isinstance(value, Typed) else value
    result = as_kind(found, plain)
    if result is None:
        shown = value.text if isinstance(value, Typed) else repr(value)
        raise BwlabError(f"{origin}: {key} = {shown}", f"not {NAMES[plain]}", f"Give {NAMES[plain]}")
    return result


def without_none(kind: object) -> object:
    """Return `X` for the type `X | None`, and any other type as it is."""
    if isinstance(kind, types.UnionType):
        return next(part for part in typing.get_args(kind) if part is not types.NoneType)
    return kind


def typed_value(text: str, kind: object) -> object:
    """Return what a typed text means: TOML if it is, else the text itself; for a text setting as typed, unquoted."""
    try:
        value: object = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return number_or_text(text, kind)
    return text if kind is str and not isinstance(value, str) else value


def number_or_text(text: str, kind: object) -> object:
    """Return a number written as TOML does not (`.5`, `NaN`) for a number setting, else the text."""
    try:
        return float(text) if kind is float else text
    except ValueError:
        return text


def as_kind(value: object, kind: object) -> object | None:
    """Return `value` as `kind`, None if it is something else."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float:
        return float(typing.cast(float, value)) if number else None
    if kind is int:
        return value if number and isinstance(value, int) else None
    if kind is str:
        return str(value) if number or isinstance(value, str) else None
    if kind == tuple[str, ...]:
        return texts(value)
    if kind is object:
        return value if is_plain(value) else None
    return value if isinstance(value, typing.cast(type, kind)) else None


def is_plain(value: object) -> bool:
    """Return whether a value is a text, a number, a truth value or a list of such values."""
    if isinstance(value, list):
        return all(is_plain(entry) for entry in value)
    return isinstance(value, (str, int, float))


def texts(value: object) -> tuple[str, ...] | None:
    """Return a text or a list of texts as a tuple, None for anything else."""
    entries = [value] if isinstance(value, str) else value
    if isinstance(entries, list) and all(isinstance(entry, str) for entry in entries):
        return tuple(typing.cast(list[str], entries))
    return None
