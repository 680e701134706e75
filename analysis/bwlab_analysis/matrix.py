"""Many adapters against each other: a table of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING

from bwlab_analysis.figures import beside
from bwlab_analysis.model_tables import looked_at
from bwlab_analysis.places import PREDICTION
from bwlab_analysis.tables import measure_heads, measures_row, new_table
from bwlab_analysis.verdict import FROM_WEIGHTS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from bwlab_analysis.conflict import ConflictReport
    from bwlab_analysis.conflict_command import AtWork
    from bwlab_analysis.registry import Measured

COLUMNS = 6  # of a matrix, of 15 characters at most
SHOWN = ("cosine", "out_overlap", "in_overlap")


def letters(count: int) -> list[str]:
    """Return the letters that adapters are called by: a, b ... z, a2, b2 ...

    >>> letters(3)
    ['a', 'b', 'c']
    """
    names = ascii_lowercase
    return [names[i % len(names)] + (str(i // len(names) + 1) if i >= len(names) else "") for i in range(count)]


def print_matrix(
    console: Console, files: Sequence[Path], pairs: Sequence[tuple[ConflictReport, AtWork | None]]
) -> None:
    """Print every pair's measures over the whole adapters, and with a base what each leaves of the other."""
    called = dict(zip(files, letters(len(files)), strict=True))
    for file, letter in called.items():
        console.print(f"{letter} = {file}", soft_wrap=True)
    measures = [measure for measure in pairs[0][0].measures if measure.name in SHOWN]
    table = new_table(["pair", "shared modules", *measure_heads(measures)])
    for report, _ in pairs:
        pair = f"{called[report.file_a]}, {called[report.file_b]}"
        table.add_row(pair, str(report.total.shared), *measures_row(report.total, measures))
    console.print(table)
    found = [(report, at_work) for report, at_work in pairs if at_work is not None]
    if found:
        random = "; in brackets, with a random adapter in one's place" if found[0][1].interaction.draws else ""
        console.print(f"Of the base's prediction, over {looked_at(found[0][1].interaction)}{random}:")
        console.print(_interactions(called, found))
        console.print("What the adapter of a row keeps beside that of a column (1: its whole effect):")
        for table in _kept(called, found):
            console.print(table)
        console.print("The blocks of every pair, and what to do, are in --json and --report; or give two files.")
    else:
        console.print("The blocks of every pair are in --json and --report; or give two files.")
        console.print(FROM_WEIGHTS)


def _interactions(called: Mapping[Path, str], pairs: Sequence[tuple[ConflictReport, AtWork]]) -> Table:
    table = new_table(["pair", "alignment", "interaction"])
    for report, at_work in pairs:
        measures = at_work.interaction.place(PREDICTION).measures
        values = [beside(measures[name], 2) for name in ("alignment", "interaction")]
        table.add_row(f"{called[report.file_a]}, {called[report.file_b]}", *values)
    return table


def _kept(called: Mapping[Path, str], pairs: Sequence[tuple[ConflictReport, AtWork]]) -> Iterator[Table]:
    """Matrices of so many columns as fit."""
    kept: dict[tuple[str, str], Measured | None] = {}
    for report, at_work in pairs:
        a, b, measures = called[report.file_a], called[report.file_b], at_work.interaction.place(PREDICTION).measures
        kept |= {(a, b): measures["retention_a"], (b, a): measures["retention_b"]}
    names = list(called.values())
    for start in range(0, len(names), COLUMNS):
        columns = names[start : start + COLUMNS]
        table = new_table(["", *columns])
        for row in names:
            table.add_row(row, *(beside(kept.get((row, column)), 2) for column in columns))
        yield table
