"""``bwlab data``: look at what an adapter is to be trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bwlab.cli.errors import USER_ERROR

if TYPE_CHECKING:
    from rich.console import Console

    from bwlab.training.config import TrainConfig
    from bwlab.training.data.findings import Survey

WIDTH = 100  # of tables where there is no terminal to ask

app = typer.Typer(help="Look at what an adapter is to be trained on.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keep `check` a command of its own: typer makes the only command of a group the group."""


@app.command("check")
def check_command(
    source: Annotated[
        Path, typer.Argument(help="Folder of images, dataset TOML of kohya's trainer, or settings of a run.")
    ],
    base: Annotated[
        str | None, typer.Option(help="Base model; shows buckets at its resolution, and captions that are too long.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Shows buckets at this resolution, without a base.", min=8, max=8192)
    ] = None,
    tags: Annotated[int, typer.Option(help="Tags to show.", min=0)] = 20,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, such as data.buckets=true.", metavar="KEY=VALUE")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """Show what would be trained: folders, buckets, tags, duplicates and broken images.

    Exits with 2 if 'bwlab train' would stop: no image can be trained, an image is broken (unless data.skip_broken is
    set), has no caption or is too small.
    """
    from rich.console import Console

    from bwlab.training.data.survey_report import document, lines, tables

    config, of_run = run_settings(source, base, resolution, settings or [])
    with_base = base is not None or (of_run and resolution is None)
    found = look(config, with_base, Console(stderr=True))
    if as_json:
        typer.echo(json.dumps(document(found), indent=2, ensure_ascii=False))
    else:
        console = Console()
        if not console.is_terminal:
            console.width = WIDTH
        console.print(tables(found, tags))
        for line in lines(found):
            typer.echo(line)
    if found.stops:
        raise typer.Exit(USER_ERROR)


def run_settings(source: Path, base: str | None, resolution: int | None, sets: list[str]) -> tuple[TrainConfig, bool]:
    """Return the settings of a run on ``source``, and whether ``source`` itself holds such settings."""
    from bwlab.training.data.toml_file import is_dataset_toml
    from bwlab.training.sources import read_config

    is_file = source.suffix == ".toml"
    of_run = is_file and not is_dataset_toml(source)
    flags = {} if of_run else {"data.dataset" if is_file else "data.folder": ("SOURCE", str(source))}
    if resolution is not None:
        flags["data.resolution"] = ("--resolution", str(resolution))
    if base is not None:
        flags["base"] = ("--base", base)
    return read_config(source if of_run else None, None, flags, sets), of_run


def look(config: TrainConfig, with_base: bool, console: Console) -> Survey:
    """Return what a run with these settings would learn from, as its base sees it if ``with_base``."""
    from functools import partial

    from bwlab.pipelines import load_base
    from bwlab.training.data.folders import present_subsets
    from bwlab.training.data.geometry import base_size
    from bwlab.training.data.loading import progress_bar, too_long
    from bwlab.training.data.survey import picture_count, survey

    found = present_subsets(config.data, config.regularisation)
    count = picture_count(found)
    pipe = load_base(config.base) if with_base else None
    with progress_bar(console, "looking at pictures") as bar:
        if pipe is None:
            return survey(found, None, bar(count))
        return survey(found, base_size(pipe), bar(count), partial(too_long, pipe))
