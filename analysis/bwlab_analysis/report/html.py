"""Pieces of HTML: escaped text, tables that sort, colours for numbers, commands."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

from bwlab_analysis.fidelity.scores import ConditionScores
from bwlab_analysis.report.numbers import NONE, decimals_of_column, number_text, share_text

if TYPE_CHECKING:
    from PIL.Image import Image


# The strongest colour on which text has a contrast of 4.5, light and dark.
FULL = 0.6

WIDTH, STEP, BOX, HEIGHT = 460, 66, 130, 52
LEFT, RIGHT = 8, 322
INDENT = 12

Measures = Mapping[str, Mapping[str, float]]
"""Measure -> block -> value."""

MOST_BYTES = 3_500_000
QUALITIES = (90, 75, 55, 35)
SIDES = (1024, 512, 256)

SIDE, MOST = 256, 6


@dataclass(frozen=True)
class Cell:
    """A table's cell.

    Attributes:
        text: what is shown.
        value: what it is sorted by; None: the text.
        small: shown smaller beside it, such as what random adapters give.
        fill: background colour in CSS; none without.

    """

    text: str
    value: float | None = None
    small: str = ""
    fill: str = ""

    def html(self) -> str:
        """Return the `td` element."""
        value = "" if self.value is None else f' data-value="{self.value:.9g}"'
        style = f' style="background:{self.fill}"' if self.fill else ""
        small = f" <small>{escape(self.small)}</small>" if self.small else ""
        return f"<td{value}{style}>{escape(self.text)}{small}</td>"


def number_cell(value: float | None, random: float | None = None, digits: int = 2, spread: float | None = None) -> Cell:
    """Return a number's cell, beside what random adapters give, and how much that varies, where that is known."""
    if value is None:
        return Cell(NONE)
    varies = "" if spread is None else f" \N{PLUS-MINUS SIGN} {number(spread, digits)}"
    return Cell(number(value, digits), value, "" if random is None else f"({number(random, digits)}{varies})")


def percent_cell(share: float | None) -> Cell:
    """Return a share's cell, 1 as 100.0 %."""
    return Cell(share_text(share), share)


def number(value: float, digits: int = 2) -> str:
    """Return a number with so many decimals, without a minus before zero; large ones with three digits."""
    return number_text(value, digits) if abs(value) < 1000 else f"{value:.3g}"


def table(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table that sorts by the column whose head is clicked."""
    head = "".join(f"<th data-sort>{escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(cell.html() for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def fill_of(value: float | None, most: float) -> str:
    """Return a colour for a number, stronger the nearer it is to `most`; negative numbers have another hue."""
    if value is None or most <= 0:
        return ""
    strength = min(1.0, abs(value) / most) * FULL
    return f"rgb(var(--{'more' if value >= 0 else 'less'}) / {strength:.3f})"


def paragraph(text: str, note: bool = False) -> str:
    """Return a paragraph of plain text."""
    return f"<p{' class=note' if note else ''}>{escape(text)}</p>"


def heading(text: str, level: int = 2) -> str:
    """Return a heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def listed(lines: Sequence[str]) -> str:
    """Return lines as a list; nothing for none."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def preformatted(text: str) -> str:
    """Return text as it is typed."""
    return f"<pre>{escape(text)}</pre>"


def heatmap(
    values: Mapping[tuple[str, Any], Mapping[str, Any] | None],
    rows: Sequence[str],
    columns: Mapping[Any, str],
    corner: str = "block",
) -> str:
    """Return a table with coloured cells.

    Args:
        values: measures as JSON has them, by row and column; what random adapters give stands in brackets.
        rows: from top to bottom.
        columns: heads, from left to right.
        corner: head of the rows.

    """
    known = [one["value"] for one in values.values() if one is not None]
    most, digits = max(map(abs, known), default=0.0), decimals_of_column(known)
    heads = "".join(f"<th>{escape(text)}</th>" for text in [corner, *columns.values()])
    lines = []
    for row in rows:
        cells = [Cell(row)]
        for column in columns:
            one = values.get((row, column)) or {"value": None}
            cell = number_cell(one["value"], one.get("random"), digits)
            cells.append(replace(cell, fill=fill_of(one["value"], most)))
        lines.append(f"<tr>{''.join(cell.html() for cell in cells)}</tr>")
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def by_time(times: Sequence[int]) -> dict[int, str]:
    """Return the columns of timesteps, from noise to picture."""
    return {time: f"t {time}" for time in times}


def unet_map(measures: Measures) -> str:
    """Return the drawing of all blocks that any measure names, with a list to choose a measure from."""
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


def _values(measures: Measures) -> dict[str, dict[str, dict[str, str]]]:
    found = {}
    for name, values in measures.items():
        most = max((abs(value) for value in values.values()), default=0.0)
        digits = decimals_of_column(values.values())
        found[name] = {
            block: {"text": number(value, digits), "fill": fill_of(value, most)} for block, value in values.items()
        }
    return found


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


def gallery(pictures: Mapping[str, Image]) -> str:
    """Return the pictures with their names below, as small as they must be for all of them to stay under 3.5 MB."""
    encoded = encode_all(pictures)
    figures = [
        f'<figure><img src="data:{kind};base64,{base64.b64encode(data).decode()}" alt="{escape(name)}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, (kind, data) in encoded.items()
    ]
    strips = " strips" if all(picture.width > 2 * picture.height for picture in pictures.values()) else ""
    return f'<div class="gallery{strips}">{"".join(figures)}</div>' if figures else ""


def encode_all(pictures: Mapping[str, Image]) -> dict[str, tuple[str, bytes]]:
    """Return each picture's media type and bytes: PNG if all fit so, else JPEG of falling quality and size."""
    encoded = {name: ("image/png", _png(picture)) for name, picture in pictures.items()}
    for side in SIDES:
        for quality in QUALITIES:
            # In base64 three bytes take four characters.
            if sum(len(data) for _, data in encoded.values()) * 4 / 3 <= MOST_BYTES:
                return encoded
            encoded = {name: ("image/jpeg", _jpeg(picture, side, quality)) for name, picture in pictures.items()}
    return encoded


def _png(picture: Image) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _jpeg(picture: Image, side: int, quality: int) -> bytes:
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def strips(scores: Sequence[ConditionScores]) -> Mapping[str, Image]:
    """Return one strip of up to 6 pictures for each composition, by its name; none higher than 256 pixels."""
    return {one.name: strip(one.images[:MOST]) for one in scores}


def strip(images: Sequence[Image]) -> Image:
    """Return pictures of one size side by side."""
    from PIL import Image

    small = [image.convert("RGB") for image in images]
    for image in small:
        image.thumbnail((SIDE, SIDE))
    width, height = small[0].size
    joined = Image.new("RGB", (width * len(small), height), "white")
    for index, image in enumerate(small):
        joined.paste(image, (index * width, 0))
    return joined
