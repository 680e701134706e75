"""Tables as values, and how a terminal and Markdown show them."""

from __future__ import annotations

from rich.console import Console

from bwlab.tables import NO_VALUE, Cell, Column, Table, columns_of, markdown_table, parts_of_width, print_table

TABLE = Table(
    (*columns_of("block", "effect"), Column("cosine", "(random pair)")),
    ((Cell("in0"), Cell("0.50", 0.5), Cell("0.01", 0.01, "(0 +- 0.02)")), (Cell("out3"), Cell("1.25", 1.25), NO_VALUE)),
    totals=((Cell("all"), Cell("0.75", 0.75), NO_VALUE),),
    title="Two adapters",
    note="In brackets: random adapters.",
)


def printed(table: Table, width: int) -> list[str]:
    console = Console(width=width, record=True, quiet=False, file=None, highlight=False)
    with console.capture() as capture:
        print_table(console, table)
    return [line.rstrip() for line in capture.get().splitlines() if line.strip()]


def test_a_terminal_shows_title_note_rows_and_totals() -> None:
    lines = printed(TABLE, 60)
    assert lines[:2] == ["Two adapters", "In brackets: random adapters."]
    assert [line.split() for line in lines[2:4]] == [["cosine"], ["block", "effect", "(random", "pair)"]]
    assert [line.split()[0] for line in lines[5:]] == ["in0", "out3", "all"]
    assert "0.01 (0 +- 0.02)" in lines[5]


def test_a_table_that_is_too_wide_is_shown_in_parts() -> None:
    parts = list(parts_of_width(TABLE, 24))
    assert [[column.head for column in part.columns] for part in parts] == [["block", "effect"], ["block", "cosine"]]
    assert max(map(len, printed(TABLE, 24)[3:])) <= 24


def test_a_terminal_says_how_many_rows_it_leaves_out() -> None:
    short = Table(TABLE.columns, TABLE.rows, terminal_rows=1)
    assert printed(short, 90)[-1] == "The first 1 of 2 rows; --json and --report show all rows."
    assert not any("out3" in line for line in printed(short, 90))


def test_markdown_has_every_cell() -> None:
    assert markdown_table(TABLE).splitlines() == [
        "### Two adapters",
        "",
        "In brackets: random adapters.",
        "",
        "| block | effect | cosine (random pair) |",
        "|---|---|---|",
        "| in0 | 0.50 | 0.01 (0 +- 0.02) |",
        "| out3 | 1.25 | - |",
        "| all | 0.75 | - |",
    ]
