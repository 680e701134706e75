"""Blocks against timesteps, coloured by a measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from bwlab_analysis.figures import decimals_of_column
from bwlab_analysis.report.markup import Cell, fill_of, number_cell


def heatmap(
    values: Mapping[tuple[str, int], Mapping[str, Any] | None], blocks: Sequence[str], times: Sequence[int]
) -> str:
    """Return a table of blocks (rows) and timesteps (columns, from noise to picture) with coloured cells.

    Args:
        values: measures as JSON has them, by block and timestep; what random adapters give stands in brackets.
        blocks: rows.
        times: columns.
    """
    known = [one["value"] for one in values.values() if one is not None]
    most, digits = max(map(abs, known), default=0.0), decimals_of_column(known)
    heads = "".join(f"<th>{escape(text)}</th>" for text in ["block", *(f"t {time}" for time in times)])
    rows = []
    for block in blocks:
        cells = [Cell(block)]
        for time in times:
            one = values.get((block, time)) or {"value": None}
            cell = number_cell(one["value"], one.get("random"), digits)
            cells.append(replace(cell, fill=fill_of(one["value"], most)))
        rows.append(f"<tr>{''.join(cell.html() for cell in cells)}</tr>")
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
