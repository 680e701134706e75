"""The HTML renderer: presentations, sortable tables, headings and paragraphs as escaped HTML, and the whole page."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable, Sequence
from html import escape

from bwlab.tables import Cell, Column, Row, Table
from bwlab.text import visible
from bwlab_analysis.report.block_map import block_map, fill_colour
from bwlab_analysis.report.presentation import BlockMap, Item, Listing, Presentation, Section, Verbatim


def page(title: str, body: str) -> str:
    """Return a whole page with its style and script inside, and characters that act on text made visible."""
    assets = importlib.resources.files("bwlab_analysis.report")
    style, script = ((assets / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return visible(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{style}</style></head>'
        f"<body><h1>{escape(title)}</h1>{body}<script>{script}</script></body></html>\n"
    )


def presentation_html(presentation: Presentation, level: int = 2) -> str:
    """Return a presentation: its title, conclusion, details and parts."""
    sections = [presentation.conclusion, *presentation.details]
    return "".join(
        [
            heading(presentation.title, level),
            *(section_html(section, level + 1) for section in sections),
            *(presentation_html(part, level) for part in presentation.parts),
        ]
    )


def section_html(section: Section, level: int) -> str:
    """Return a section, or an empty text for a section without items."""
    if not section.items:
        return ""
    return heading(section.title, level) + "".join(map(item_html, section.items))


def item_html(item: Item) -> str:
    """Return one item of a section."""
    match item:
        case str():
            return paragraph(item)
        case Table():
            return table_html(item)
        case Listing(lines):
            return listing(lines)
        case Verbatim(lines):
            return preformatted("\n".join(lines))
        case BlockMap(measures):
            return block_map(measures)


def table_html(table: Table, level: int = 4) -> str:
    """Return a table with its title and note; clicking the head of a column sorts the rows by it."""
    head = "".join(map(_head_html, table.columns))
    body, foot = _rows_html(table.rows, table.columns), _rows_html(table.totals, table.columns)
    return "".join(
        [
            heading(table.title, level) if table.title else "",
            paragraph(table.note, note=True) if table.note else "",
            f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>',
            f"<tfoot>{foot}</tfoot>" if foot else "",
            "</table></div>",
            _legend_html(table.columns),
        ]
    )


def _legend_html(columns: Iterable[Column]) -> str:
    """Return the meanings of the columns that have one, for readers without a mouse too."""
    terms = "".join(
        f"<dt>{escape(column.head)}</dt><dd>{escape(column.meaning)}</dd>" for column in columns if column.meaning
    )
    return f'<dl class="legend">{terms}</dl>' if terms else ""


def _head_html(column: Column) -> str:
    note = f"<br><small>{escape(column.note)}</small>" if column.note else ""
    title = f' title="{escape(column.meaning)}"' if column.meaning else ""
    return f"<th data-sort{title}{_align(column)}>{escape(column.head)}{note}</th>"


def _rows_html(rows: Iterable[Row], columns: Sequence[Column]) -> str:
    return "".join(
        f"<tr>{''.join(cell_html(cell, column) for cell, column in zip(row, columns, strict=True))}</tr>"
        for row in rows
    )


def cell_html(cell: Cell, column: Column) -> str:
    """Return the `td` element of a cell."""
    value = "" if cell.value is None else f' data-value="{cell.value:.9g}"'
    fill = fill_colour(cell.fill)
    style = f' style="background:{fill}"' if fill else ""
    note = f" <small>{escape(cell.note)}</small>" if cell.note else ""
    return f"<td{value}{style}{_align(column)}>{escape(cell.text)}{note}</td>"


def _align(column: Column) -> str:
    return " class=left" if column.align == "left" else ""


def heading(text: str, level: int = 2) -> str:
    """Return a heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, note: bool = False) -> str:
    """Return a paragraph of plain text."""
    return f"<p{' class=note' if note else ''}>{escape(text)}</p>"


def listing(lines: Sequence[str]) -> str:
    """Return lines as a list, or an empty text if there are none."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def preformatted(text: str) -> str:
    """Return preformatted text."""
    return f"<pre>{escape(text)}</pre>"
