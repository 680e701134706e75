"""`bwlab demo`: the whole idea on one sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo_command(
    quick: Annotated[bool, typer.Option("--quick", help="A smaller run of about two minutes.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the demo. [default: runs/demo or runs/demo-quick]", metavar="DIR")
    ] = None,
    base: Annotated[
        str, typer.Option(help="Base model: emoji, a diffusers folder, a checkpoint or a hub id.")
    ] = "emoji",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew in a demo's folder.")] = False,
) -> None:
    """Learn a fox and an ink style apart, then put them together on all blocks and on the upper ones only.

    Trains three adapters on the embedded base, shows where they conflict, and writes a sheet of pictures beside the
    true one. A demo that was stopped goes on where it was.
    """
    from dataclasses import replace

    from rich.console import Console

    from bwlab.plugins.manager import build_manager
    from bwlab_analysis.demo import FULL, QUICK, run_demo

    folder = out or Path("runs") / ("demo-quick" if quick else "demo")
    plan = replace(QUICK if quick else FULL, base=base)
    result = run_demo(plan, folder, build_manager(), Console(stderr=True), overwrite=overwrite)
    typer.echo(f"Done in {result.seconds / 60:.1f} minutes.")
    for name, path in result.adapters.items():
        typer.echo(f"adapter {name:12} {path}")
    for path in result.conflicts:
        typer.echo(f"conflict             {path}")
    typer.echo(f"pictures             {result.pictures}")
    typer.echo(f"sheet                {result.sheet}")
