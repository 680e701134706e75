"""`bwlab demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bwlab.terminal import echo


def demo_command(
    quick: Annotated[
        bool, typer.Option("--quick", help="Train fewer steps and generate fewer images, in about two minutes.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the demo's files. [default: runs/demo or runs/demo-quick]", metavar="DIR"),
    ] = None,
    base: Annotated[
        str, typer.Option(help="Base model: emoji, emoji-dit, a diffusers folder, a checkpoint or a hub id.")
    ] = "emoji",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the files of an earlier demo and start anew.")
    ] = False,
) -> None:
    """Train a fox and an ink style, then combine them with the style in all blocks or in some alone.

    The style is trained twice: into all blocks, and into the upper blocks of a UNet (of SDXL: B-LoRA's part for styles)
    or the last third of a transformer's blocks. The command shows how the weights conflict, and writes a sheet of
    images beside the true one. A demo that was stopped continues where it was.
    """
    from bwlab.plugins.manager import installed_manager
    from bwlab.terminal import stderr_console
    from bwlab_analysis.demo import plan_for, run_demo

    folder = out or Path("runs") / ("demo-quick" if quick else "demo")
    manager = installed_manager()
    result = run_demo(plan_for(base, manager, quick=quick), folder, manager, stderr_console(), overwrite=overwrite)
    echo(f"Done in {result.seconds / 60:.1f} minutes.")
    for name, path in result.adapters.items():
        echo(f"adapter {name:12} {path}")
    for path in result.conflicts:
        echo(f"conflict             {path}")
    echo(f"images               {result.images}")
    echo(f"sheet                {result.sheet}")
