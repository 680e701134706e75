"""`bwlab convert`: an adapter file in another tool's form, resized, or with blocks scaled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bwlab.cli.merge import show

BLOCKS_HELP = 'Scale of blocks, folded in: a spec such as "upper=1, *=0"; 0 leaves modules out, unnamed blocks keep 1.'


def command(
    source: Annotated[
        Path, typer.Argument(help="Adapter file of any tool; .pt and .bin are read without running them.")
    ],
    out: Annotated[Path, typer.Argument(help="File to write; of the form peft, a folder.")],
    to: Annotated[
        str, typer.Option(help="Form: kohya, ldm, diffusers, peft, or one of a plugin.", metavar="FORM")
    ] = "kohya",
    dtype: Annotated[
        str | None, typer.Option(help="Of the numbers: fp32, fp16 or bf16. [default: as they are]")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Lower every module to this rank at most, by SVD.")] = None,
    blocks: Annotated[str | None, typer.Option(help=BLOCKS_HELP, metavar="SPEC")] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Base model of the adapter; for --rank of OFT, DoRA and the like, and for its blocks."),
    ] = None,
    drop_unknown: Annotated[
        bool, typer.Option("--drop-unknown", help="Leave out keys that nobody understands, instead of failing.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Write an adapter file in another form, with the same deltas.

    Metadata is kept, with what was done. --rank prints how much of each block's energy is kept.
    """
    from rich.console import Console

    from bwlab.merging.convert import Conversion, convert
    from bwlab.merging.output import Target
    from bwlab.plugins.manager import build_manager
    from bwlab.terminal import tracked

    job = Conversion(source, Target(out, to, dtype, overwrite), rank, blocks, base, drop_unknown)
    console = Console(stderr=True)
    show(convert(job, build_manager(), lambda modules: tracked(modules, console, "resizing")))
