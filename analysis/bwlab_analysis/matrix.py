"""Many adapters against each other: a table of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING

from bwlab_analysis.figures import NONE
from bwlab_analysis.places import PREDICTION
from bwlab_analysis.tables import measure_heads, measures_row, new_table

if TYPE_CHECKING:
    from rich.console import Console

    from bwlab_analysis.conflict import ConflictReport
    from bwlab_analysis.conflict_command import AtWork

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
    if any(at_work is not None for _, at_work in pairs):
        console.print(_at_work(called, pairs))
    console.print("Blocks and advice of every pair are in --json and --report; or give two files.")


def _at_work(called: dict[Path, str], pairs: Sequence[tuple[ConflictReport, AtWork | None]]) -> object:
    table = new_table(["pair", "alignment", "first kept", "second kept", "interaction"])
    for report, at_work in pairs:
        if at_work is not None:
            measures = at_work.interaction.place(PREDICTION).measures
            found = [measures[name] for name in ("alignment", "retention_a", "retention_b", "interaction")]
            values = [NONE if one is None else f"{one.value:.2f}" for one in found]
            table.add_row(f"{called[report.file_a]}, {called[report.file_b]}", *values)
    return table
