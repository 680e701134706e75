"""The drawing of a model's blocks, coloured by a measure that the reader of a page chooses."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape

from bwlab_analysis.report.numbers import decimals_of_column, number_text

# The strongest colour on which text has a contrast of 4.5, in the light and the dark theme.
FULL = 0.6

WIDTH, STEP, BOX, HEIGHT = 460, 66, 130, 52
LEFT, RIGHT = 8, 322
INDENT = 12
ROWS = 10  # of a column
UNET_BLOCK = re.compile(r"(?:in|out)\d+|mid")
NUMBERED_BLOCK = re.compile(r"(.*?)(\d+)")

Measures = Mapping[str, Mapping[str, float]]
"""Measure -> block -> value."""


def block_map(measures: Measures) -> str:
    """Return a drawing of all blocks with a value of any measure, and a list to choose the measure from.

    The blocks of a UNet are drawn as a U, those of a transformer as columns that are read from top to bottom.
    """
    blocks = list(dict.fromkeys(block for values in measures.values() for block in values))
    drawn, size = _u_shape(blocks) if is_of_unet(blocks) else _columns(blocks)
    measures = {
        name: {block: value for block, value in values.items() if f'data-block="{escape(block)}"' in drawn}
        for name, values in measures.items()
    }
    measures = {name: values for name, values in measures.items() if values}
    if not measures:
        return ""
    options = "".join(f"<option>{escape(name)}</option>" for name in measures)
    values = json.dumps(_values(measures), allow_nan=False).replace("<", "\\u003c")
    return (
        f'<div class="blocks"><label>Colour by <select>{options}</select></label>'
        f'<svg width="{size[0]}" viewBox="0 0 {size[0]} {size[1]}" role="img"'
        f' aria-label="The blocks of the model">{drawn}</svg>'
        f'<script type="application/json">{values}</script></div>'
    )


def is_of_unet(blocks: Sequence[str]) -> bool:
    """Return whether these are the blocks of a UNet and not those of a transformer."""
    return any(map(UNET_BLOCK.fullmatch, blocks))


def sides_of_u(blocks: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the blocks of a UNet's left and right side, from top to bottom; none for a transformer."""
    down = sorted((block for block in blocks if block.startswith("in")), key=_level)
    up = sorted((block for block in blocks if block.startswith("out")), key=_level, reverse=True)
    return down, up


def _u_shape(blocks: Sequence[str]) -> tuple[str, tuple[int, int]]:
    """Return the drawing of a UNet's blocks, with its width and height."""
    down, up = sides_of_u(blocks)
    if not (down or up):
        return "", (0, 0)
    drawn = "".join([*_skips(down, up), *_boxes(down, LEFT, 1), *_boxes(up, RIGHT, -1), _middle(down, up)])
    return drawn, (WIDTH, (max(len(down), len(up)) + 1) * STEP)


def lists_of_blocks(blocks: Sequence[str]) -> list[list[str]]:
    """Return the numbered blocks of a transformer, each list in order."""
    lists: dict[str, list[tuple[int, str]]] = {}
    for block in blocks:
        match = NUMBERED_BLOCK.fullmatch(block)
        if match:
            lists.setdefault(match[1], []).append((int(match[2]), block))
    return [[block for _, block in sorted(members)] for members in lists.values()]


def _columns(blocks: Sequence[str]) -> tuple[str, tuple[int, int]]:
    """Return the drawing of a transformer's blocks, with its width and height; each list begins a column."""
    columns = [
        ordered[first : first + ROWS] for ordered in lists_of_blocks(blocks) for first in range(0, len(ordered), ROWS)
    ]
    drawn = [
        _box(block, LEFT + column * (BOX + LEFT), row * STEP + 6)
        for column, members in enumerate(columns)
        for row, block in enumerate(members)
    ]
    return "".join(drawn), (LEFT + len(columns) * (BOX + LEFT), max(map(len, columns), default=0) * STEP)


def _values(measures: Measures) -> dict[str, dict[str, dict[str, str]]]:
    """Return the text and the colour of each block, by measure and block."""
    return {
        name: {
            block: {"text": text, "fill": fill_colour(strength)}
            for block, (text, strength) in texts_and_strengths(values).items()
        }
        for name, values in measures.items()
    }


def texts_and_strengths(values: Mapping[str, float]) -> dict[str, tuple[str, float]]:
    """Return the text of each block's value, and the value as a share -1..1 of the largest one."""
    most = max((abs(value) for value in values.values()), default=0.0)
    digits = decimals_of_column(values.values())
    return {block: (number_text(value, digits), value / most if most else 0.0) for block, value in values.items()}


def _level(block: str) -> int:
    digits = block.removeprefix("in").removeprefix("out")
    return int(digits) if digits.isdigit() else 0


def _boxes(blocks: Sequence[str], x: int, side: int) -> list[str]:
    return [_box(block, x + side * INDENT * row, row * STEP + 6) for row, block in enumerate(blocks)]


def _middle(down: Sequence[str], up: Sequence[str]) -> str:
    y = max(len(down), len(up)) * STEP + 6
    return _box("mid", (WIDTH - BOX) // 2, y)


def _skips(down: Sequence[str], up: Sequence[str]) -> list[str]:
    lines = []
    for row in range(min(len(down), len(up))):
        y = row * STEP + 6 + HEIGHT // 2
        lines.append(f'<path class="skip" d="M{LEFT + INDENT * row + BOX} {y}H{RIGHT - INDENT * row}"/>')
    return lines


def _box(block: str, x: int, y: int) -> str:
    middle = x + BOX // 2
    return (
        f'<g data-block="{escape(block)}"><title></title>'
        f'<rect x="{x}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="6"/>'
        f'<text x="{middle}" y="{y + 21}">{escape(block)}</text>'
        f'<text class="value" x="{middle}" y="{y + 43}"></text></g>'
    )


def fill_colour(strength: float) -> str:
    """Return a colour for -1..1 that is stronger farther from 0; negative numbers have another hue, and 0 no colour."""
    if strength == 0:
        return ""
    opacity = min(1.0, abs(strength)) * FULL
    return f"rgb(var(--{'more' if strength > 0 else 'less'}) / {opacity:.3f})"
