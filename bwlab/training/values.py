"""Values of settings: from TOML or the command line to the kind that a setting needs."""

from __future__ import annotations

import tomllib
import types
import typing
from dataclasses import dataclass

from bwlab.errors import BwlabError

NAMES: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    tuple[str, ...]: "a list of texts",
    object: "a text, a number, true, false or a list of these",
}


@dataclass(frozen=True)
class Typed:
    """A value as it was typed on the command line."""

    text: str


def converted(key: str, value: object, kind: object, origin: str) -> object:
    """Return ``value`` as ``kind``: int, float, bool, str, a tuple of texts, one of these or None, or anything.

    A whole number serves as a float and a number as a text; nothing else changes its kind.

    Raises:
        BwlabError: it is of another kind; the message names ``key`` and ``origin``.
    """
    plain = without_none(kind)
    found = typed_value(value.text, plain) if isinstance(value, Typed) else value
    result = as_kind(found, plain)
    if result is None:
        shown = value.text if isinstance(value, Typed) else repr(value)
        raise BwlabError(f"{origin}: {key} = {shown}", f"not {NAMES[plain]}", f"Give {NAMES[plain]}")
    return result


def without_none(kind: object) -> object:
    """Return ``X`` for the type ``X | None``, and any other type as it is."""
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
    """Return a number written as TOML does not (``.5``, ``NaN``) for a number setting, else the text."""
    try:
        return float(text) if kind is float else text
    except ValueError:
        return text


def as_kind(value: object, kind: object) -> object | None:
    """Return ``value`` as ``kind``, None if it is something else."""
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
