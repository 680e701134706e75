"""Text from files and names, made safe to show: characters that would act on a terminal become visible."""

from __future__ import annotations

import json
import math
import re
import tomllib
from typing import Any

# What acts on a terminal or reverses text instead of being shown: control characters but for tab and line feed,
# separators of lines, marks of writing direction, and halves of surrogate pairs, which cannot be written.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
MOST_DIGITS = 300  # of whole numbers, so that each is within the range of floats
DEEPEST = 50  # levels of tables in TOML
HALVES = re.compile("[\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Return a text with escape sequences in place of the characters that would act on a terminal or reverse text.

    >>> visible("a\x1b[2J\u202eb")
    'a\\x1b[2J\\u202eb'
    """
    return CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def single_line(text: str) -> str:
    """Return a text made `visible`, line feeds too: names of files and tags may hold them."""
    return visible(text).replace("\n", "\\n")


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text from a stranger.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or has a number that is NaN, infinite or of too many digits.

    """
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite, parse_int=_whole)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables of a TOML text from a stranger.

    Raises:
        ValueError: it is no TOML, is nested too deeply, or has a whole number of thousands of digits.

    """
    try:
        tables = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    level: list[Any] = [tables]
    for _ in range(DEEPEST):
        level = [value for table in level if isinstance(table, dict) for value in table.values()]
        if not level:
            return tables
    raise ValueError("it is nested too deeply")


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"it has a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value
