"""Options that a plugin's entry declares: each has a name and a converter, which checks a user's value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

from bwlab.errors import BwlabError, did_you_mean

Converter: TypeAlias = Callable[[object], object]  # raises ValueError with what to give instead


def checked_options(
    owner: str, known: Mapping[str, Converter], given: Mapping[str, object], asked: Callable[[str, object], str]
) -> dict[str, object]:
    """Return the options that a user gives, checked and converted.

    Args:
        owner: name of the entry that has the options, for messages.
        known: the options that it has, each with a converter.
        given: the options from the user.
        asked: (option, value) -> the words for what the user asked.

    Raises:
        BwlabError: there is no such option (with the nearest one that exists), or a value is invalid.

    """
    converted: dict[str, object] = {}
    for option, value in given.items():
        if option not in known:
            fix = f"{did_you_mean(option, known)}Its options: {', '.join(known) or 'none'}"
            raise BwlabError(asked(option, value), f"{owner} has no such option", fix)
        try:
            converted[option] = known[option](value)
        except ValueError as error:
            raise BwlabError(asked(option, value), "an invalid value", f"Give {error}") from None
    return converted


def is_number(value: object) -> bool:
    """Return whether a value is a finite number and no boolean; whole numbers beyond the range of floats are none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def number(
    least: float = -math.inf, below: float = math.inf, above: float = -math.inf, most: float = math.inf
) -> Converter:
    """Return a converter for finite numbers `x` with `least <= x <= most` and `above < x < below`."""

    def convert(value: object) -> object:
        inside = is_number(value) and least <= value < below and above < value <= most  # type: ignore[operator]
        if not inside:
            bounds = [f"at least {least:g}"] if least > -math.inf else []
            bounds += [f"above {above:g}"] if above > -math.inf else []
            bounds += [f"below {below:g}"] if below < math.inf else []
            bounds += [f"at most {most:g}"] if most < math.inf else []
            raise ValueError(" ".join(["a finite number", " and ".join(bounds)]).strip())
        return value

    return convert


def whole_number(least: int = 0) -> Converter:
    """Return a converter for whole numbers of at least `least`."""

    def convert(value: object) -> object:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"a whole number of at least {least}")
        return value

    return convert


def flag(value: object) -> object:
    """Return a boolean as it is; ValueError for anything else."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def pair(*each: Converter) -> Converter:
    """Return a converter for a list with one value for each of the converters."""

    def convert(value: object) -> object:
        if not isinstance(value, (list, tuple)) or len(value) != len(each):
            raise ValueError(f"a list of {len(each)} numbers")
        return tuple(part(entry) for part, entry in zip(each, value, strict=True))

    return convert


FRACTION = number(least=0.0, below=1.0)
POSITIVE = number(above=0.0)
