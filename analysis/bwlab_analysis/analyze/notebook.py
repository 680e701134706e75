"""Results in notebooks: tables as pandas frames, HTML without styles of its own, and text for rich."""

from __future__ import annotations

import io
from collections.abc import Container, Iterator
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError, did_you_mean
from bwlab.tables import EMPTY, Cell, Table
from bwlab.terminal import text_console
from bwlab_analysis.report.html import section_html
from bwlab_analysis.report.presentation import BlockMap, Presentation, Section
from bwlab_analysis.report.show import print_presentation

if TYPE_CHECKING:
    import pandas
    from rich.console import Console, ConsoleOptions
    from rich.text import Text


def tables_in(presentation: Presentation) -> dict[str, Table]:
    """Return the tables of a presentation and its parts by name: their title, or that of their section.

    Of several tables with one name, the second is `"name 2"`, and so on.
    """
    tables: dict[str, Table] = {}
    for name, table in _named(presentation):
        tables[_free(name, tables)] = table
    return tables


def _named(presentation: Presentation) -> Iterator[tuple[str, Table]]:
    for section in (*presentation.details, presentation.conclusion):
        for item in section.items:
            if isinstance(item, Table):
                yield item.title or section.title, item
    for part in presentation.parts:
        yield from _named(part)


def frame_of(presentation: Presentation, name: str = "") -> pandas.DataFrame:
    """Return a table as a frame: numbers are not rounded, and what stands beside a number is a column of its own.

    Args:
        presentation: a presentation.
        name: name of the table; empty: the first one.

    Raises:
        BwlabError: there is no such table, or pandas is not installed.

    """
    try:
        import pandas
    except ImportError as error:
        raise BwlabError("a frame", "pandas is not installed", "pip install 'bwlab[notebook]'") from error
    tables = tables_in(presentation)
    if not tables or (name and name not in tables):
        known = f"{did_you_mean(name, tables)}Known: {', '.join(tables)}" if tables else "Use document()"
        raise BwlabError(f"the table {name}".rstrip(), "the result has no such table", known)
    table = tables[name or next(iter(tables))]
    columns: dict[str, list[object]] = {}
    for index, column in enumerate(table.columns):
        cells = [row[index] for row in (*table.rows, *table.totals)]
        columns[_free(column.head, columns)] = [_value(cell) for cell in cells]
        if any(cell.note for cell in cells):
            name = _free(f"{column.head} {column.note or '(note)'}", columns)
            columns[name] = [cell.note.strip("()") or None for cell in cells]
    return pandas.DataFrame(columns)


def _free(wanted: str, taken: Container[str]) -> str:
    """Return a name that is not taken: the one wanted, or with a number."""
    number = 2
    name = wanted
    while name in taken:
        name, number = f"{wanted} {number}", number + 1
    return name


def _value(cell: Cell) -> object:
    if cell.value is not None:
        return cell.value
    return None if cell.text == EMPTY else cell.text


def notebook_html(presentation: Presentation) -> str:
    """Return the conclusion and the tables of a presentation, without the drawings, as a part of a page."""
    sections = [presentation.conclusion, *(one for one in presentation.details if not one.detail)]
    body = "".join(section_html(_without_drawings(section), 4) for section in sections)
    return f'<div class="bwlab"><h3>{escape(presentation.title)}</h3>{body}</div>'


def _without_drawings(section: Section) -> Section:
    return replace(section, items=tuple(item for item in section.items if not isinstance(item, BlockMap)))


def rich_text(presentation: Presentation, console: Console, options: ConsoleOptions) -> Text:
    """Return what a command prints of a presentation, as wide as a console, in its colours."""
    from rich.text import Text

    printed = io.StringIO()
    print_presentation(text_console(printed, options.max_width, console.color_system), presentation)
    return Text.from_ansi(printed.getvalue())
