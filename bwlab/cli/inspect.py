"""``bwlab inspect``: what an adapter file is, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    files: Annotated[
        list[Path], typer.Argument(help="Adapter files of any tool; .pt and .bin are read without running them.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what adapter files are: dialect, algorithm, model, ranks and modules per block, training, and health.

    Health tells of numbers that are none, modules that change nothing, spikes, and what other tools get wrong.
    """
    import json

    from bwlab.inspection.report import inspect_file
    from bwlab.plugins import build_manager

    manager = build_manager()
    reports = (inspect_file(file, manager) for file in files)
    if as_json:
        from bwlab.inspection.document import document

        typer.echo(json.dumps(document(reports), indent=2, allow_nan=False))
        return
    from bwlab.inspection.table import open_console, print_inspection

    console = open_console()
    for number, report in enumerate(reports):
        if number:
            console.print()
        print_inspection(console, report)
