"""`bwlab data`: look at what an adapter is to be trained on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bwlab.cli.app import USER_ERROR

if TYPE_CHECKING:
    from rich.console import Console, Group, RenderableType
    from rich.table import Table
    from rich.text import Text

    from bwlab.dataset.survey import BucketCount, FolderCount, Survey
    from bwlab.training.config import TrainConfig


WIDTH = 100  # of tables where there is no terminal to ask

app = typer.Typer(help="Look at what an adapter is to be trained on.", no_args_is_help=True)

SCHEMA = "bwlab.data.check"
VERSION = 1
CAPTION_WIDTH = 80
SHOWN = 10  # files of a list; --json has all


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
    """Return the settings of a run on `source`, and whether `source` itself holds such settings."""
    from bwlab.dataset.kohya_toml import is_dataset_toml
    from bwlab.training.settings import read_config

    is_file = source.suffix == ".toml"
    of_run = is_file and not is_dataset_toml(source)
    flags = {} if of_run else {"data.dataset" if is_file else "data.folder": ("SOURCE", str(source))}
    if resolution is not None:
        flags["data.resolution"] = ("--resolution", str(resolution))
    if base is not None:
        flags["base"] = ("--base", base)
    return read_config(source if of_run else None, None, flags, sets), of_run


def look(config: TrainConfig, with_base: bool, console: Console) -> Survey:
    """Return what a run with these settings would learn from, as its base sees it if `with_base`."""
    from functools import partial

    from bwlab.base.load import load_base
    from bwlab.dataset.buckets import base_size
    from bwlab.dataset.folders import present_subsets
    from bwlab.dataset.survey import picture_count, survey
    from bwlab.terminal import progress_bar
    from bwlab.training.data import too_long

    found = present_subsets(config.data, config.regularisation)
    count = picture_count(found)
    pipe = load_base(config.base) if with_base else None
    with progress_bar(console, "looking at pictures") as bar:
        if pipe is None:
            return survey(found, None, bar(count))
        return survey(found, base_size(pipe), bar(count), partial(too_long, pipe))


def document(found: Survey) -> dict[str, Any]:
    """Return a survey as plain JSON values."""
    return {
        "schema": SCHEMA,
        "schema_version": VERSION,
        "trainable": found.trainable,
        "stops": found.stops,
        **{name: plain(value) for name, value in fields_of(found).items()},
    }


def plain(value: object) -> object:
    """Return a value as JSON has it: paths as texts, records as objects."""
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: plain(inner) for name, inner in fields_of(value).items()}
    if isinstance(value, tuple):
        return [plain(inner) for inner in value]
    return value


def fields_of(record: object) -> dict[str, object]:
    """Return the values of a dataclass by name."""
    return {entry.name: getattr(record, entry.name) for entry in dataclasses.fields(record)}  # type: ignore[arg-type]


def tables(found: Survey, tags: int) -> Group:
    """Return the tables of a survey, with so many tags."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    if found.folders:
        parts += [heading("Folders"), folder_table(found.folders), Text()]
    if found.buckets:
        parts += [heading("Buckets"), bucket_table(found.buckets), Text()]
    elif found.folders:
        parts += [Text("Buckets: give --base or --resolution to see them."), Text()]
    if found.tags:
        parts += [heading(f"Tags ({min(tags, len(found.tags))} of {len(found.tags)})")]
        parts += [tag_table(found.tags[:tags]), Text()]
    return Group(*parts)


def heading(text: str) -> Text:
    """Return what stands above a table; its own title would be wrapped to the table's width."""
    from rich.text import Text

    return Text(text, style="bold")


def new_table(*columns: str) -> Table:
    """Return an empty table whose first column is text and whose others are numbers."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    return table


def folder_table(folders: Sequence[FolderCount]) -> Table:
    """Return the table of folders."""
    from rich.text import Text

    table = new_table("folder", "images", "repeats", "an epoch", "without caption")
    for one in folders:
        name = f"{one.folder} (regularisation)" if one.regularisation else str(one.folder)
        repeats = "-".join(str(count) for count in dict.fromkeys((one.repeats[0], one.repeats[-1])))
        table.add_row(Text(name), str(one.images), repeats, f"{one.shown:g}", str(one.uncaptioned or "-"))
    total = sum(one.shown for one in folders)
    table.add_row("all", str(sum(one.images for one in folders)), "", f"{total:g}", "", style="bold")
    return table


def bucket_table(buckets: Sequence[BucketCount]) -> Table:
    """Return the table of buckets."""
    table = new_table("size", "images", "regularisation", "cropped", "at most", "enlarged")
    for one in buckets:
        lost = f"{one.lost:.1%}", f"{one.worst:.1%}"
        table.add_row(str(one.size), str(one.images), str(one.regularisation or "-"), *lost, str(one.enlarged or "-"))
    return table


def tag_table(tags: Sequence[tuple[str, int]]) -> Table:
    """Return the table of tags."""
    from rich.text import Text

    table = new_table("tag", "images")
    for tag, count in tags:
        table.add_row(Text(shorten(tag, CAPTION_WIDTH)), str(count))
    return table


def lines(found: Survey) -> Iterator[str]:
    """Yield what is to be looked at, and whether a run would start."""
    yield from found.notes
    yield from listed("broken", [f"{one.path}: {one.reason}" for one in found.broken])
    yield from listed("cannot be used", [one.reason for one in found.unusable])
    yield from listed("of a kind that is not read", [str(path) for path in found.unread])
    yield from listed("the same file", [" = ".join(str(path) for path in group) for group in found.duplicates])
    alike = [f"{one.first} ~ {one.second} ({one.bits} of {one.of} bits differ)" for one in found.lookalikes]
    yield from listed("look alike", alike)
    yield from listed("smaller than their bucket, so enlarged", [str(path) for path in found.enlarged])
    if found.long_captions:
        shown = [shorten(caption, CAPTION_WIDTH) for caption in found.long_captions]
        yield from listed(f"captions longer than {found.token_limit} tokens", shown)
    if not found.trainable:
        yield "Nothing can be trained."
    elif found.stops:
        yield "bwlab train would stop."
    else:
        yield f"{found.trainable} images can be trained."


def listed(what: str, entries: Sequence[str]) -> Iterator[str]:
    """Yield a heading with a count, and the first entries; nothing without any."""
    if entries:
        yield f"{what} ({len(entries)}):"
        yield from (f"  {entry}" for entry in entries[:SHOWN])
        if len(entries) > SHOWN:
            yield f"  ... and {len(entries) - SHOWN} more (--json has all)"
