"""`bwlab analyze`: what one adapter's weights hold, and where two meet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FileArgument = Annotated[Path, typer.Argument(help="An adapter file of any tool.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _checked_report(folder: Path | None) -> Path | None:
    """Make the folder of the report, or say why not, before any work is done."""
    if folder is not None:
        from bwlab_analysis.report.page import make_report_folder

        make_report_folder(folder)
    return folder


ReportOption = Annotated[
    Path | None,
    typer.Option(help="Also write report.html there, one file for a browser.", metavar="DIR", callback=_checked_report),
]
CellsOption = Annotated[bool, typer.Option("--cells", help="Also per cell: one resnet/attention pair.")]
ModulesOption = Annotated[bool, typer.Option("--modules", help="Also per module.")]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        help="Also relative to a base's weights: emoji, a diffusers folder, or a checkpoint.", show_default=False
    ),
]

# torch's largest seed, with room for those of random adapters after it.
MOST_SEED = 2**63 - 1000
SeedOption = Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Of noise and random adapters.")]
