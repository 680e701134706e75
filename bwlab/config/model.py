"""Settings as pydantic models: frozen, strict, and with errors that say what to give instead."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from bwlab.errors import BwlabError, did_you_mean

# What each bound of `pydantic.Field` is called.
BOUNDS: Mapping[str, str] = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
OUT_OF_RANGE = frozenset({"finite_number", "greater_than", "greater_than_equal", "less_than", "less_than_equal"})
KIND_NAMES: Mapping[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    tuple[str, ...]: "a list of texts",
}
PLAIN = "a text, a number, true, false or a list of these"


class SettingError(BwlabError):
    """A setting with a value it cannot have.

    Args:
        key: name of the setting within its model, dotted for an entry of a table.
        value: the value, as text.
        found: what is wrong with the value.
        fix: what to give instead.

    """

    def __init__(self, key: str, value: object, found: str, fix: str) -> None:
        super().__init__(f"{key} = {value}", found, fix)
        self.key = key


def number_as_text(value: object) -> object:
    """Return a number as text, and anything else as it is."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def as_tuple(value: object) -> object:
    """Return a text or a list as a tuple, and anything else as it is."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def is_plain(value: object) -> bool:
    """Return whether a value is a text, a number, a truth value or a list of such values."""
    if isinstance(value, (list, tuple)):
        return all(is_plain(entry) for entry in value)
    return isinstance(value, (str, int, float))


def require_plain(value: object) -> object:
    """Return a value that TOML can write in one line; raise PydanticCustomError for any other."""
    if not is_plain(value):
        raise PydanticCustomError("plain", f"Input should be {PLAIN}")
    return value


Text = Annotated[str, BeforeValidator(number_as_text)]
"""A text; a number serves as one."""

Texts = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
"""A list of texts; a single text serves as one."""

Options = Mapping[str, Annotated[object, AfterValidator(require_plain)]]
"""A table whose keys belong to somebody else, such as the options of an adapter type."""


class Settings(BaseModel):
    """A group of settings, each described by the docstring below it and checked when the group is made.

    Attributes:
        alternatives: settings that say the same in two ways, such as a number of epochs or of steps. A value of the
            first takes the place of the second one's default, and both are never given.

    Raises:
        SettingError: a key that does not exist, a value that its setting cannot have, or two alternatives.

    """

    alternatives: ClassVar[Mapping[str, str]] = {}

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def __init__(self, **values: object) -> None:
        for key, other in self.alternatives.items():
            if values.get(key) is not None:
                if values.get(other) is not None:
                    raise SettingError(key, values[key], f"{other} = {values[other]} is given too", "Give one of them")
                values[other] = None
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise setting_error(error, values, type(self).model_fields) from error

    def replace(self, **changes: Any) -> Self:
        """Return these settings with some values changed, all of them checked again.

        A changed value takes the place of its alternative.
        """
        pairs = {**self.alternatives, **{other: key for key, other in self.alternatives.items()}}
        replaced = {pairs[key] for key in changes if key in pairs} - changes.keys()
        return type(self)(**{**{key: value for key, value in self if key not in replaced}, **changes})


Value = TypeVar("Value")


def checked(key: str, value: object, kind: type[Value]) -> Value:
    """Return a single value as `kind`, any type that a setting can have; SettingError if the value is of another."""
    try:
        return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
    except ValidationError as error:
        raise setting_error(error, {key: value}, {key: FieldInfo.from_annotation(kind)}, (key,)) from error


def setting_error(
    error: ValidationError,
    values: Mapping[str, object],
    fields: Mapping[str, FieldInfo],
    within: tuple[str, ...] = (),
) -> SettingError:
    """Return what pydantic found first as an error that names the setting, its value and what to give.

    Args:
        error: the error of pydantic.
        values: the values that it was given, by name.
        fields: the fields that it checked them against, by name.
        within: names in front of those that pydantic gives.

    """
    problem = error.errors(include_url=False)[0]
    names = (*within, *(part for part in problem["loc"] if isinstance(part, str)))
    key, field = ".".join(names), fields.get(names[0])
    value = values[names[0]] if len(names) == 1 else problem["input"]
    if field is None:
        fix = did_you_mean(key, fields) + f"Known keys: {', '.join(sorted(fields))}"
        return SettingError(key, value, "unknown key", fix)
    if problem["type"] in OUT_OF_RANGE:
        return SettingError(key, value, "out of range", f"Give {' and '.join(['a finite number', *bounds(field)])}")
    if problem["type"] == "literal_error":
        known = choices(field)
        near = did_you_mean(str(value), known)
        return SettingError(key, value, "unknown", f"{near}Choose from {', '.join(known)}")
    kind = PLAIN if problem["type"] == "plain" else _kind_name(field, len(names) > 1)
    return SettingError(key, repr(value), f"not {kind}", f"Give {kind}")


def _kind_name(field: FieldInfo, of_entry: bool) -> str:
    """Return what a setting may be, in words, or an entry of it if it is a table."""
    kind = plain_type(field.annotation)
    if of_entry and typing.get_origin(kind) is Mapping:
        kind = plain_type(typing.get_args(kind)[1])
    return KIND_NAMES.get(kind, "a table")


def plain_type(annotation: object) -> object:
    """Return the type of a value without what is added to it: `X` for `X | None` and for `Annotated[X, ...]`.

    >>> plain_type(Text | None)
    <class 'str'>
    """
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return plain_type(typing.get_args(annotation)[0])
    if origin in (typing.Union, UnionType):
        return plain_type(next(part for part in typing.get_args(annotation) if part is not NoneType))
    return annotation


def choices(field: FieldInfo) -> tuple[str, ...]:
    """Return the words that a setting may be, none if it is not one of several words."""
    kind = plain_type(field.annotation)
    return tuple(map(str, typing.get_args(kind))) if typing.get_origin(kind) is Literal else ()


def bound(field: FieldInfo, name: str) -> Any:
    """Return a bound of a setting, by its name in `BOUNDS`; None where it has none."""
    return next((getattr(entry, name) for entry in field.metadata if hasattr(entry, name)), None)


def bounds(field: FieldInfo) -> list[str]:
    """Return the bounds of a setting in words: `["at least 0", "at most 1"]`."""
    limits = {name: bound(field, name) for name in BOUNDS}
    return [f"{BOUNDS[name]} {limit:g}" for name, limit in limits.items() if limit is not None]
