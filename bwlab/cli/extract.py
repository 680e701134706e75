"""`bwlab extract`: an adapter from a fine-tuned model and its base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bwlab.cli.merge import show

MODEL_HELP = "'emoji', a diffusers folder, a .safetensors checkpoint or a name on the hub."


def command(
    tuned: Annotated[str, typer.Argument(help=f"The fine-tuned model: {MODEL_HELP}")],
    base: Annotated[str, typer.Argument(help="The model that it was trained from, likewise.")],
    out: Annotated[Path, typer.Option(help="File to write.", metavar="OUT")],
    rank: Annotated[int | None, typer.Option(help="Rank of every layer in the UNet's blocks.", metavar="N")] = None,
    blocks: Annotated[
        str | None,
        typer.Option(help='Rank of each block, such as "upper=32, rest=4"; wins over --rank.', metavar="SPEC"),
    ] = None,
    text_encoder: Annotated[
        bool, typer.Option("--text-encoder", help="Extract the text encoders too, at --rank.")
    ] = False,
    to: Annotated[str, typer.Option(help="Form: kohya, ldm, diffusers, peft, or one of a plugin.")] = "kohya",
    dtype: Annotated[str, typer.Option(help="Of the numbers: fp32, fp16 or bf16.")] = "fp16",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write the LoRA nearest to what a fine-tuning did: the SVD of each layer's difference.

    Prints how much of the difference each block keeps, and what no LoRA can hold.
    """
    from rich.console import Console

    from bwlab.merging.extract import Extraction, extract
    from bwlab.merging.output import Target
    from bwlab.plugins.manager import build_manager
    from bwlab.terminal import tracked

    job = Extraction(tuned, base, rank, blocks, text_encoder)
    console = Console(stderr=True)
    target = Target(out, to, dtype, overwrite)
    show(extract(job, target, build_manager(), lambda keys: tracked(keys, console, "extracting")))
