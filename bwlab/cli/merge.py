"""`bwlab merge`: several adapters as one, or folded into a base model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from rich.table import Table

    from bwlab.merging.output import FitRow, Outcome


SCALE_HELP = (
    'Strength of the adapter in the same place: a number or a block spec such as "upper=1, *=0.5"; '
    "blocks not named keep 1. [default: 1]"
)
METHOD_HELP = "sum; blocks: a sum of what --choose says; ties and dare: see docs/merging.md."
CHOOSE_HELP = 'Which adapters make which block, A the first: "upper=B, mid=A+B, *=A".'
INTO_HELP = "Fold the adapters into this base model; OUT is a folder, or a single .safetensors file."


def command(
    adapters: Annotated[list[Path], typer.Argument(help="Adapter files, called A, B, ... by --choose.")],
    out: Annotated[Path, typer.Option(help="File to write.", metavar="OUT")],
    scale: Annotated[list[str] | None, typer.Option(help=SCALE_HELP, metavar="SPEC")] = None,
    rank: Annotated[
        int | None, typer.Option(help="Lower the result to this rank by SVD. [default: exact; ties and dare need it]")
    ] = None,
    method: Annotated[str, typer.Option(help=METHOD_HELP)] = "sum",
    choose: Annotated[str | None, typer.Option(help=CHOOSE_HELP, metavar="TEXT")] = None,
    density: Annotated[
        float | None, typer.Option(help="Share of numbers that ties (0.2) or dare (0.5) keeps of each delta.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what dare drops.", min=0)] = 0,
    to: Annotated[str, typer.Option(help="Form: kohya, ldm, diffusers, peft, or one of a plugin.")] = "kohya",
    dtype: Annotated[str, typer.Option(help="Of the numbers: fp32, fp16 or bf16.")] = "fp32",
    base: Annotated[
        str | None, typer.Option(help="Base model of the adapters, if OFT, DoRA or the like need it.")
    ] = None,
    into: Annotated[str | None, typer.Option(help=INTO_HELP, metavar="BASE")] = None,
    drop_unknown: Annotated[
        bool, typer.Option("--drop-unknown", help="Leave out keys that nobody understands, instead of failing.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Add adapters up to one, exactly or to a rank; or fold them into a base model.

    Scales are paired with adapters in order. A sum is exact: its rank is the sum of the ranks, unless --rank lowers it.
    """
    from rich.console import Console

    from bwlab.merging.into_base import merge_into
    from bwlab.merging.merge import MergeRecipe, merge
    from bwlab.merging.methods import BLOCKS, SUM, Method
    from bwlab.merging.output import Target
    from bwlab.plugins.manager import build_manager
    from bwlab.terminal import tracked

    name = BLOCKS if choose is not None and method == SUM else method
    recipe = MergeRecipe(tuple(adapters), tuple(scale or ()), Method(name, density, seed), choose, drop_unknown)
    console, manager = Console(stderr=True), build_manager()
    if into is None:
        target = Target(out, to, dtype, overwrite)
        show(merge(recipe, target, manager, rank=rank, base=base, track=lambda all_: tracked(all_, console, "merging")))
        return
    if rank is not None or base is not None:
        option = "--rank" if rank is not None else "--base"
        raise BwlabError(f"{option} with --into", "the base model holds every delta as it is", f"Leave out {option}")
    show(
        merge_into(
            recipe,
            into,
            out,
            manager,
            dtype=dtype,
            overwrite=overwrite,
            track=lambda every: tracked(every, console, "merging"),
        )
    )


def fit_table(outcome: Outcome) -> Table:
    """Return what low rank kept, block by block and in all."""
    from rich import box
    from rich.table import Table

    from bwlab.merging.output import fit_rows

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
    """Return what was written, one line each, notes last."""
    from bwlab.terminal import counted

    first, *others = outcome.files
    what = counted(outcome.modules, "module") if outcome.modules else "a token's embedding"
    zeros = sum(fit.after == 0 for fit in outcome.fits)
    notes = [f"left out: {counted(zeros, 'module')} whose delta is zero"] if zeros else []
    return [f"{first}: {what}", *(f"{path}: a token's embedding" for path in others), *notes, *outcome.notes]


def _cells(row: FitRow) -> list[str]:
    before = "dense" if row.before is None else _span(row.before)
    return [row.name, str(row.modules), before, _span(row.after), f"{row.kept:.2%}", f"{row.error:.2e}"]


def _span(ranks: tuple[int, int]) -> str:
    return str(ranks[0]) if ranks[0] == ranks[1] else f"{ranks[0]}-{ranks[1]}"


def show(outcome: Outcome) -> None:
    """Print the table of approximations, if there are any, and the files."""
    from rich.console import Console

    from bwlab.terminal import WIDTH

    if outcome.fits:
        console = Console()
        if not console.is_terminal:
            console.width = WIDTH
        console.print(fit_table(outcome))
    for line in lines(outcome):
        typer.echo(line)
