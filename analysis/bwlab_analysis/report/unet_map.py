"""The drawing of a UNet's blocks as a U, coloured by a measure that the reader of a page chooses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape

from bwlab_analysis.report.numbers import decimals_of_column, number_text

# The strongest colour on which text has a contrast of 4.5, in the light and the dark theme.
FULL = 0.6

WIDTH, STEP, BOX, HEIGHT = 460, 66, 130, 52
LEFT, RIGHT = 8, 322
INDENT = 12

Measures = Mapping[str, Mapping[str, float]]
"""Measure -> block -> value."""


def unet_map(measures: Measures) -> str:
    """Return a drawing of all blocks with a value of any measure, and a list to choose the measure from."""
    measures = _drawn(measures)
    blocks = list(dict.fromkeys(block for values in measures.values() for block in values))
    down = sorted((block for block in blocks if block.startswith("in")), key=_level)
    up = sorted((block for block in blocks if block.startswith("out")), key=_level, reverse=True)
    if not measures or not (down or up):
        return ""
    drawn = "".join([*_skips(down, up), *_boxes(down, LEFT, 1), *_boxes(up, RIGHT, -1), _middle(down, up)])
    height = (max(len(down), len(up)) + 1) * STEP
    options = "".join(f"<option>{escape(name)}</option>" for name in measures)
    values = json.dumps(_values(measures), allow_nan=False).replace("<", "\\u003c")
    return (
        f'<div class="unet"><label>Colour by <select>{options}</select></label>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="The UNet\'s blocks">{drawn}</svg>'
        f'<script type="application/json">{values}</script></div>'
    )


def _drawn(measures: Measures) -> dict[str, dict[str, float]]:
    """Return the measures that have a value for a block of the drawing."""
    drawn = {
        name: {block: value for block, value in values.items() if block.startswith(("in", "mid", "out"))}
        for name, values in measures.items()
    }
    return {name: values for name, values in drawn.items() if values}


def _values(measures: Measures) -> dict[str, dict[str, dict[str, str]]]:
    """Return the text and the colour of each block, by measure and block."""
    shown = {}
    for name, values in measures.items():
        most = max((abs(value) for value in values.values()), default=0.0)
        digits = decimals_of_column(values.values())
        shown[name] = {
            block: {"text": number_text(value, digits), "fill": fill_colour(value / most if most else 0.0)}
            for block, value in values.items()
        }
    return shown


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
