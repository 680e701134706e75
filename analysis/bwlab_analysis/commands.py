"""``bwlab analyze``: what one adapter's weights hold, and where two meet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look inside adapter files.", no_args_is_help=True)

FileArgument = Annotated[Path, typer.Argument(help="An adapter file with kohya keys.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CellsOption = Annotated[bool, typer.Option("--cells", help="Also per cell: one resnet/attention pair.")]


@app.command("norms")
def norms_command(file: FileArgument, as_json: JsonOption = False, cells: CellsOption = False) -> None:
    """Show per block and kind of module how much an adapter changes, and how many directions it uses."""
    from bwlab.cli.errors import warn
    from bwlab.plugins import build_manager
    from bwlab_analysis.installed import block_metrics
    from bwlab_analysis.norms import measure_norms

    report = measure_norms(file, block_metrics(build_manager(), warn))
    if as_json:
        from bwlab_analysis.documents import norms_document

        _print_json(norms_document(report))
        return
    from bwlab_analysis.tables import open_console, print_norms

    print_norms(open_console(), report, cells)


@app.command("conflict")
def conflict_command(
    a: FileArgument,
    b: FileArgument,
    as_json: JsonOption = False,
    cells: CellsOption = False,
    signs: Annotated[
        bool, typer.Option("--signs", help="Also the sign conflict, which multiplies all deltas out.")
    ] = False,
) -> None:
    """Show per block where two adapters change the same weights, each number beside that of a random pair."""
    from bwlab.cli.errors import warn
    from bwlab.plugins import build_manager
    from bwlab_analysis.conflict import measure_conflict
    from bwlab_analysis.installed import conflict_measures

    measures = [measure for measure in conflict_measures(build_manager(), warn) if signs or not measure.slow]
    report = measure_conflict(a, b, measures)
    if as_json:
        from bwlab_analysis.documents import conflict_document

        _print_json(conflict_document(report))
        return
    from bwlab_analysis.tables import open_console, print_conflict

    print_conflict(open_console(), report, cells)


def _print_json(document: object) -> None:
    import json

    typer.echo(json.dumps(document, indent=2, allow_nan=False))
