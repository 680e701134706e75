"""Tables whose cells are coloured by their numbers: blocks against timesteps, adapters against adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from bwlab_analysis.figures import decimals_of_column
from bwlab_analysis.report.markup import Cell, fill_of, number_cell


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
