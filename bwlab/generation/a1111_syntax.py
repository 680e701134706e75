r"""Weights in prompts as the AUTOMATIC1111 web UI writes them: `(fox:1.2)`, `((fox))`, `[fox]`, `\(`, `BREAK`.

The grammar is that of `parse_prompt_attention` in the web UI's modules/prompt_parser.py: `(...)` multiplies the weight
by 1.1, `(...:1.2)` by 1.2, `[...]` divides it by 1.1, brackets nest, an open bracket without its end holds up to the
end of the prompt, and a backslash takes the meaning from the bracket after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TypeAlias

from bwlab.errors import BwlabError

A1111 = "a1111"
ROUND, SQUARE = 1.1, 1 / 1.1
MOST_WEIGHT = 10_000
MOST_OPEN = 100  # brackets around one text; 1.1 to the power of that is more than MOST_WEIGHT
PIECE = re.compile(
    r"""\\[()\[\]\\] | \\ | \( | \[ | :\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\) | \) | \] | [^\\()\[\]:]+ | :""",
    re.VERBOSE | re.ASCII,
)
BREAK = re.compile(r"\s*\bBREAK\b\s*")

Part: TypeAlias = tuple[str, float]  # a text and its weight
Segment: TypeAlias = tuple[Part, ...]  # the parts between two BREAKs


def parse_weights(prompt: str) -> tuple[Segment, ...]:
    r"""Return the segments of a prompt; neighbouring parts of one weight are joined.

    >>> parse_weights(r"a (red:1.5) fox \(tame\) BREAK [owl")
    ((('a ', 1.0), ('red', 1.5), (' fox (tame)', 1.0)), (('owl', 0.9090909090909091),))

    Raises:
        BwlabError: a weight is beyond `MOST_WEIGHT`, where images are noise or NaN, or more than `MOST_OPEN` brackets
            are open at once.

    """
    parts = _weighted(prompt)
    for text, weight in parts:
        if not abs(weight) <= MOST_WEIGHT:
            found = f"the weight of {text!r} is {weight:g}"
            raise BwlabError(f"prompt {prompt!r}", found, f"Give weights of at most {MOST_WEIGHT:,}, such as (fox:1.2)")
    return tuple(_joined(segment) for segment in _segments(parts))


def _weighted(prompt: str) -> list[Part]:
    """Return the texts of a prompt with their weights; a BREAK is a text of its own, with a weight of 0."""
    parts: list[Part] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for match in PIECE.finditer(prompt):
        piece = match[0]
        bracket, factor = _closed_by(match)
        if piece in opened:
            opened[piece].append(len(parts))
            if sum(map(len, opened.values())) > MOST_OPEN:
                found = f"more than {MOST_OPEN} brackets are open at once"
                raise BwlabError(
                    f"prompt {prompt!r}", found, r"Close them, or write \( and \[ for brackets that weigh nothing"
                )
        elif bracket and opened[bracket]:
            _multiply(parts, opened[bracket].pop(), factor)
        elif piece.startswith("\\"):
            parts.append((piece[1:], 1.0))
        else:
            parts += _with_breaks(piece)
    for bracket, factor in (("(", ROUND), ("[", SQUARE)):
        for first in opened[bracket]:
            _multiply(parts, first, factor)
    return parts


def _closed_by(match: re.Match[str]) -> tuple[str, float]:
    """Return the bracket that a piece closes and the factor of its weight; an empty text if it closes none."""
    if match["weight"]:
        return "(", float(match["weight"])
    return {")": ("(", ROUND), "]": ("[", SQUARE)}.get(match[0], ("", 1.0))


def _multiply(parts: list[Part], first: int, factor: float) -> None:
    parts[first:] = [(text, weight * factor) for text, weight in parts[first:]]


def _with_breaks(text: str) -> Iterator[Part]:
    for index, part in enumerate(BREAK.split(text)):
        if index:
            yield "BREAK", 0.0
        yield part, 1.0


def _segments(parts: Iterable[Part]) -> list[list[Part]]:
    segments: list[list[Part]] = [[]]
    for text, weight in parts:
        if (text, weight) == ("BREAK", 0.0):
            segments.append([])
        elif text:
            segments[-1].append((text, weight))
    return segments


def _joined(parts: Iterable[Part]) -> Segment:
    return tuple(
        ("".join(text for text, _ in group), weight) for weight, group in groupby(parts, key=lambda part: part[1])
    )
