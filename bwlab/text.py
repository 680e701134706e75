"""Text from files and names, made safe to show: characters that would act on a terminal become visible."""

from __future__ import annotations

import re

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
