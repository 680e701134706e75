"""`bwlab convert`: write an adapter file in another tool's form, at a lower rank, or with scaled blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bwlab.cli.merge import DROP_UNKNOWN_HELP, DTYPE_HELP, FORM_HELP, show

BLOCKS_HELP = (
    'Scale of each block, folded into the file: a spec such as "upper=1, *=0"; '
    "0 leaves a block out, unnamed blocks keep 1."
)


def command(
    source: Annotated[
        Path, typer.Argument(help="Adapter file of any tool; .pt and .bin files are read without running code in them.")
    ],
    out: Annotated[Path, typer.Argument(help="File to write, or folder to write if the form is peft.")],
    to: Annotated[str, typer.Option(help=FORM_HELP, metavar="FORM")] = "kohya",
    dtype: Annotated[str | None, typer.Option(help=f"{DTYPE_HELP} [default: that of the source]")] = None,
    rank: Annotated[
        int | None, typer.Option(help="Highest rank of a module; modules of a higher rank are reduced by SVD.")
    ] = None,
    blocks: Annotated[str | None, typer.Option(help=BLOCKS_HELP, metavar="SPEC")] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="Base model of the adapter: --rank needs it for OFT, DoRA and some others; it also names the blocks."
        ),
    ] = None,
    drop_unknown: Annotated[bool, typer.Option("--drop-unknown", help=DROP_UNKNOWN_HELP)] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Convert an adapter file to another form, with the same deltas.

    The metadata is kept and records the conversion. With --rank, the command prints
    how much of each block's energy is kept.
    """
    from bwlab.merging.convert import Conversion, convert
    from bwlab.merging.output import Target
    from bwlab.plugins.manager import installed_manager
    from bwlab.terminal import track

    job = Conversion(source, Target(out, to, dtype, overwrite), rank, blocks, base, drop_unknown)
    show(convert(job, installed_manager(), lambda modules: track(modules, "resizing modules")))
