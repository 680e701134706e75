"""Tables as values, built once from a result and then shown on a terminal, in a page or in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from bwlab.text import single_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

EMPTY = "-"
GAP = 2  # blanks between two columns
LEAST_TEXT = 16  # characters of a wrapped text's line, at least


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: the shown text.
        value: the number by which the cell is sorted; None: sort by the text.
        note: text beside the number for comparison: an interval, or the value of random adapters.
        fill: strength and sign of the background in a page, -1..1; 0 for no background.

    """

    text: str
    value: float | None = None
    note: str = ""
    fill: float = 0.0

    @property
    def line(self) -> str:
        """The text and its note."""
        return f"{self.text} {self.note}".strip()


NO_VALUE = Cell(EMPTY)

Row: TypeAlias = tuple[Cell, ...]


@dataclass(frozen=True)
class Column:
    """The head of a column and the layout of its cells.

    Attributes:
        head: name of the column.
        note: second line of the head.
        align: alignment of the cells; the first column is usually aligned to the left.
        wrap: whether long texts are wrapped on a terminal.
        meaning: explanation of the numbers in plain words, which a page shows.

    """

    head: str
    note: str = ""
    align: Literal["left", "right"] = "right"
    wrap: bool = False
    meaning: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        columns: columns from left to right.
        rows: rows from top to bottom, with a cell for each column.
        totals: rows below a line.
        title: title of the table.
        note: explanation of the table.
        terminal_rows: number of rows shown on a terminal; None: all rows.

    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    totals: tuple[Row, ...] = ()
    title: str = ""
    note: str = ""
    terminal_rows: int | None = None

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in (*self.rows, *self.totals)), self.title


def columns_of(first: str, *others: str) -> tuple[Column, ...]:
    """Return columns with these heads, the first aligned to the left and the others to the right."""
    return (Column(first, align="left"), *map(Column, others))


def print_table(console: Console, table: Table) -> None:
    """Print a table; a table wider than the console is split into parts, each with the first column."""
    if table.title:
        console.print(table.title, style="bold")
    if table.note:
        console.print(table.note)
    shown = table.rows[: table.terminal_rows]
    for part in parts_of_width(replace(table, rows=shown), console.width):
        console.print(_rich_table(part))
    if len(shown) < len(table.rows):
        console.print(f"The first {len(shown)} of {len(table.rows)} rows; --json and --report show all rows.")


def parts_of_width(table: Table, width: int) -> Iterator[Table]:
    """Yield the table in parts of at most `width` characters a line where possible, each with the first column."""
    widths = [_width(table, index) + GAP + 1 for index in range(len(table.columns))]
    chosen: list[int] = []
    for index in range(1, len(table.columns)):
        if chosen and widths[0] + sum(widths[other] for other in (*chosen, index)) > width:
            yield _part(table, chosen)
            chosen = []
        chosen.append(index)
    yield _part(table, chosen)


def markdown_table(table: Table) -> str:
    """Return a table as Markdown, with its title and note above."""
    heading = [
        part for text in (f"### {table.title}" if table.title else "", table.note) if text for part in (text, "")
    ]
    heads = [f"{column.head} {column.note}".strip() for column in table.columns]
    lines = [_markdown_line(heads), "|" + "---|" * len(heads)]
    lines += [_markdown_line(cell.line for cell in row) for row in (*table.rows, *table.totals)]
    return "\n".join([*heading, *lines, ""])


def _markdown_line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _width(table: Table, index: int) -> int:
    """Return the smallest width of a column in characters."""
    column = table.columns[index]
    head = max(len(column.head), len(column.note))
    lines = [len(row[index].line) for row in (*table.rows, *table.totals)]
    return max(head, min(max(lines, default=0), LEAST_TEXT) if column.wrap else max(lines, default=0))


def _part(table: Table, chosen: Sequence[int]) -> Table:
    def rows(whole: Sequence[Row]) -> tuple[Row, ...]:
        return tuple((row[0], *(row[index] for index in chosen)) for row in whole)

    columns = (table.columns[0], *(table.columns[index] for index in chosen))
    return replace(table, columns=columns, rows=rows(table.rows), totals=rows(table.totals))


def _rich_table(table: Table) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, GAP, 0, 0))
    for column in table.columns:
        head = Text("\n".join(filter(None, (column.head, column.note))))
        shown.add_column(head, justify=column.align, no_wrap=not column.wrap, overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(single_line(cell.line)) for cell in row))
    if table.totals:
        shown.add_section()
    for row in table.totals:
        shown.add_row(*(Text(single_line(cell.line)) for cell in row))
    return shown
