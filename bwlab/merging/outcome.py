"""What a command of this package did, and how the command line tells it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bwlab.blocks.scheme import BlockScheme
from bwlab.formats.fits import Fit, FitRow, fit_rows

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Item = TypeVar("Item")


@dataclass(frozen=True)
class Outcome:
    """Files that were written, and how well what is in them stands for what was asked.

    Attributes:
        files: paths, the adapter's or model's first.
        modules: adapted modules that were written.
        scheme: names their blocks.
        fits: of modules that were approximated by low rank; empty where everything is exact.
        notes: further lines.
    """

    files: tuple[Path, ...]
    modules: int
    scheme: BlockScheme
    fits: tuple[Fit, ...] = ()
    notes: tuple[str, ...] = ()


def fit_table(outcome: Outcome) -> Table:
    """What low rank kept, block by block and in all."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("block", style="bold", no_wrap=True)
    for header in ("modules", "rank before", "rank", "energy kept", "relative error"):
        table.add_column(header, justify="right", no_wrap=True)
    *blocks, whole = fit_rows(outcome.fits, outcome.scheme)
    for row in blocks:
        table.add_row(*_cells(row))
    table.add_section()
    table.add_row(*_cells(whole), style="bold")
    return table


def lines(outcome: Outcome) -> list[str]:
    """What was written, one line each, notes last."""
    first, *others = outcome.files
    what = counted(outcome.modules, "module") if outcome.modules else "a token's embedding"
    zeros = sum(fit.after == 0 for fit in outcome.fits)
    notes = [f"left out: {counted(zeros, 'module')} whose delta is zero"] if zeros else []
    return [f"{first}: {what}", *(f"{path}: a token's embedding" for path in others), *notes, *outcome.notes]


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "module"), counted(3, "module")
    ('1 module', '3 modules')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def tracked(items: Sequence[Item], console: Console, text: str) -> Iterable[Item]:
    """The items, with a progress bar on the console while they are taken; none where it is no terminal."""
    from rich.progress import track

    if not console.is_terminal:
        return items
    return track(items, text, console=console, transient=True)


def _cells(row: FitRow) -> list[str]:
    before = "dense" if row.before is None else _span(row.before)
    return [row.name, str(row.modules), before, _span(row.after), f"{row.kept:.2%}", f"{row.error:.2e}"]


def _span(ranks: tuple[int, int]) -> str:
    return str(ranks[0]) if ranks[0] == ranks[1] else f"{ranks[0]}-{ranks[1]}"
