"""Blocks against timesteps, coloured by a measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from bwlab_analysis.figures import decimals_of_column
from bwlab_analysis.report.markup import Cell, fill_of, number


def heatmap(values: Mapping[tuple[str, int], float | None], blocks: Sequence[str], times: Sequence[int]) -> str:
    """Return a table of blocks (rows) and timesteps (columns, from noise to picture) with coloured cells."""
    known = [value for value in values.values() if value is not None]
    most, digits = max(map(abs, known), default=0.0), decimals_of_column(known)
    heads = "".join(f"<th>{escape(text)}</th>" for text in ["block", *(f"t {time}" for time in times)])
    rows = []
    for block in blocks:
        cells = [Cell(block)]
        for time in times:
            value = values.get((block, time))
            text = "-" if value is None else number(value, digits)
            cells.append(Cell(text, value, fill=fill_of(value, most)))
        rows.append(f"<tr>{''.join(cell.html() for cell in cells)}</tr>")
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
