"""How the commands that write adapters tell what they did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from bwlab.merging.outcome import Outcome

WIDTH = 100  # of tables where there is no terminal to ask


def show(outcome: Outcome) -> None:
    """Print the table of approximations, if there are any, and the files."""
    from rich.console import Console

    from bwlab.merging.outcome import fit_table, lines

    if outcome.fits:
        console = Console()
        if not console.is_terminal:
            console.width = WIDTH
        console.print(fit_table(outcome))
    for line in lines(outcome):
        typer.echo(line)
