"""Pieces of HTML: escaped text, tables that sort, colours for numbers, commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bwlab_analysis.figures import NONE, number_text, share_text

# The strongest colour on which text has a contrast of 4.5, light and dark.
FULL = 0.6


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
        """Return the ``td`` element."""
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
    """Return a colour for a number, stronger the nearer it is to ``most``; negative numbers have another hue."""
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
