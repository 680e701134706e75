"""Text from files and names, made safe to show: characters that would act on a terminal become visible."""

from __future__ import annotations

import json
import math
import re
from typing import Any

# What acts on a terminal or reverses text instead of being shown: control characters but for tab and line feed,
# separators of lines, marks of writing direction, and halves of surrogate pairs, which cannot be written.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
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
        return json.loads(text, parse_float=_finite, parse_constant=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value
