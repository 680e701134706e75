"""`bwlab ui`: open the block mixer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bwlab.base.device import AUTO

PORT = 8765


def command(
    adapters: Annotated[
        list[Path] | None, typer.Argument(help="Adapter files to open.", metavar="FILE", show_default=False)
    ] = None,
    base: Annotated[
        str, typer.Option(help="Base model: emoji, emoji-dit, a diffusers folder, a checkpoint or a hub id.")
    ] = "emoji",
    folder: Annotated[
        Path | None, typer.Option(help="Folder whose adapter files the page may open.", metavar="DIR")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder of an adapter's training images, with which the search compares its images (repeatable).",
            metavar="NAME=DIR",
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(help="open_clip model that scores the images of the search: a folder, or NAME=WEIGHTS."),
    ] = None,
    device: Annotated[str, typer.Option(help="Device: auto, cpu, cuda, cuda:1, mps ...")] = AUTO,
    listen: Annotated[
        str,
        typer.Option(
            help="Host to listen on; any but this machine's own 127.0.0.1 needs a password, which is asked for.",
            metavar="HOST",
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: a free one.", min=0, max=65535)] = PORT,
    password_file: Annotated[
        Path | None, typer.Option(help="File whose first line is the password.", metavar="FILE")
    ] = None,
    max_upload: Annotated[int, typer.Option(help="Largest file that may be uploaded, in MB.", min=1)] = 1024,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Mix adapters by sliders: a page with a slider for each block of each adapter, beside the image.

    The page is shown by your browser and served by this computer; nothing leaves it. Ctrl-C stops the server.
    """
    from bwlab_ui.run import Options, run

    options = Options(
        adapters=tuple(adapters or ()),
        base=base,
        folder=folder,
        data=tuple(data or ()),
        clip=clip,
        device=device,
        host=listen,
        port=port,
        password_file=password_file,
        most_upload=max_upload * 2**20,
        open_page=open_page,
    )
    run(options)
