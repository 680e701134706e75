"""`bwlab extract`: extract an adapter from a fine-tuned model and its base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bwlab.cli.merge import DTYPE_HELP, FORM_HELP, show

MODEL_HELP = "'emoji', 'emoji-dit', a diffusers folder, a .safetensors checkpoint or a name on the hub."


def command(
    tuned: Annotated[str, typer.Argument(help=f"The fine-tuned model: {MODEL_HELP}")],
    base: Annotated[str, typer.Argument(help=f"The model that TUNED was trained from: {MODEL_HELP}")],
    out: Annotated[Path, typer.Option(help="File to write.", metavar="OUT")],
    rank: Annotated[int | None, typer.Option(help="Rank of every layer in the UNet's blocks.", metavar="N")] = None,
    blocks: Annotated[
        str | None,
        typer.Option(
            help='Rank of each block, such as "upper=32, rest=4"; takes precedence over --rank.', metavar="SPEC"
        ),
    ] = None,
    text_encoder: Annotated[
        bool, typer.Option("--text-encoder", help="Extract the text encoders too, at --rank.")
    ] = False,
    to: Annotated[str, typer.Option(help=FORM_HELP)] = "kohya",
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = "fp16",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Extract the LoRA nearest to a fine-tuned model, by an SVD of each layer's difference from the base.

    The command prints the share of the difference that each block keeps, and the changes that no LoRA can hold.
    """
    from bwlab.merging.extract import Extraction, extract
    from bwlab.merging.output import Target
    from bwlab.plugins.manager import installed_manager
    from bwlab.terminal import track

    job = Extraction(tuned, base, rank, blocks, text_encoder)
    target = Target(out, to, dtype, overwrite)
    show(extract(job, target, installed_manager(), lambda keys: track(keys, "comparing tensors")))
