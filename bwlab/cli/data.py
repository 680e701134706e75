"""`bwlab data check`: show the images and captions of a training run, and their problems."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bwlab.cli.app import USER_ERROR
from bwlab.tables import EMPTY, Cell, Column, Row, Table, columns_of, print_table
from bwlab.terminal import counted, echo

if TYPE_CHECKING:
    from bwlab.dataset.buckets import BaseSize
    from bwlab.dataset.survey import BucketCount, FindLongCaptions, FolderCount, NearDuplicate, Survey
    from bwlab.training.config import TrainConfig

SCHEMA = "bwlab.data.check"
VERSION = 2
CAPTION_WIDTH = 80
LISTED_ENTRIES = 10
FOLDER_HEADS = ("images", "repeats", "per epoch", "without caption")
BUCKET_HEADS = ("images", "regularisation", "cropped", "at most", "enlarged")

app = typer.Typer(help="Check the images and captions to train an adapter on.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keep `check` as a command: typer would merge the only command of a group into the group."""


@app.command("check")
def check_command(
    source: Annotated[
        Path, typer.Argument(help="Folder of images, dataset TOML of kohya's trainer, or settings TOML of a run.")
    ],
    base: Annotated[
        str | None, typer.Option(help="Base model that determines the resolution and the longest allowed caption.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Resolution of the buckets in pixels, if no base is given.", min=8, max=8192)
    ] = None,
    tags: Annotated[int, typer.Option(help="Number of tags to show.", min=0)] = 20,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, such as data.buckets=true.", metavar="KEY=VALUE"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all results as JSON.")] = False,
) -> None:
    """Show what would be trained: folders, buckets, tags, duplicates and broken images.

    The exit code is 2 if 'bwlab train' would stop: no image can be trained, or an image is broken (unless
    data.skip_broken is set), has no caption or is too small.
    """
    from bwlab.terminal import stdout_console

    config, of_run = run_settings(source, base, resolution, settings or [])
    survey = survey_settings(config, with_base=base is not None or (of_run and resolution is None))
    if as_json:
        echo(json.dumps(document(survey), indent=2, ensure_ascii=False), exact=True)
    else:
        console = stdout_console()
        for table in tables(survey, tags):
            print_table(console, table)
        for line in lines(survey):
            echo(line)
    if survey.stops:
        raise typer.Exit(USER_ERROR)


def run_settings(source: Path, base: str | None, resolution: int | None, sets: list[str]) -> tuple[TrainConfig, bool]:
    """Return the settings of a run on `source`, and whether `source` itself is a file of such settings."""
    from bwlab.dataset.kohya_toml import is_dataset_toml
    from bwlab.training.settings import read_config

    is_file = source.suffix == ".toml"
    of_run = is_file and not is_dataset_toml(source)
    flags: dict[str, tuple[str, object]] = {}
    if not of_run:
        flags["data.dataset" if is_file else "data.folder"] = ("SOURCE", str(source))
    if resolution is not None:
        flags["data.resolution"] = ("--resolution", resolution)
    if base is not None:
        flags["base"] = ("--base", base)
    return read_config(source if of_run else None, None, flags, sets), of_run


def survey_settings(config: TrainConfig, with_base: bool) -> Survey:
    """Return a survey of the data of a run with these settings; with its base if `with_base`."""
    from bwlab.dataset.folders import present_subsets
    from bwlab.dataset.survey import image_count, survey
    from bwlab.terminal import ProgressBar

    subsets = present_subsets(config.data, config.regularisation)
    count = image_count(subsets)
    size, find_long = base_limits(config) if with_base else (None, None)
    with ProgressBar("reading images", count) as bar:
        return survey(subsets, size, bar.advance, find_long)


def base_limits(config: TrainConfig) -> tuple[BaseSize, FindLongCaptions]:
    """Return the size of images that the base of a run was made for, and what finds captions too long for it."""
    from functools import partial

    from bwlab.base.load import load_base
    from bwlab.dataset.buckets import base_size
    from bwlab.plugins.manager import installed_manager
    from bwlab.training.data import long_captions, text_reading

    pipe = load_base(config.base, families=installed_manager().model_families())
    return base_size(pipe), partial(long_captions, pipe, text_reading(config))


def document(survey: Survey) -> dict[str, Any]:
    """Return a survey as plain JSON values."""
    return {
        "schema": SCHEMA,
        "schema_version": VERSION,
        "trainable": survey.trainable,
        "stops": survey.stops,
        **{name: plain(value) for name, value in fields_of(survey).items()},
    }


def plain(value: object) -> object:
    """Return a value as plain JSON: paths as texts, dataclasses as objects."""
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


def tables(survey: Survey, tags: int) -> Iterator[Table]:
    """Yield the tables of a survey, with at most `tags` tags."""
    if survey.folders:
        yield folder_table(survey.folders)
    if survey.buckets:
        yield bucket_table(survey.buckets)
    if survey.tags:
        yield tag_table(survey.tags, tags)


def folder_table(folders: Sequence[FolderCount]) -> Table:
    """Return the table of folders."""
    columns = (Column("folder", align="left", wrap=True), *map(Column, FOLDER_HEADS))
    rows = [
        row_of(
            f"{folder.folder} (regularisation)" if folder.regularisation else str(folder.folder),
            str(folder.images),
            "-".join(str(count) for count in dict.fromkeys((folder.repeats[0], folder.repeats[-1]))),
            f"{folder.per_epoch:g}",
            str(folder.uncaptioned or EMPTY),
        )
        for folder in folders
    ]
    images, per_epoch = sum(folder.images for folder in folders), sum(folder.per_epoch for folder in folders)
    totals = row_of("all", str(images), "", f"{per_epoch:g}", "")
    return Table(columns, tuple(rows), (totals,), title="Folders")


def bucket_table(buckets: Sequence[BucketCount]) -> Table:
    """Return the table of buckets."""
    rows = [
        row_of(
            str(bucket.size),
            str(bucket.images),
            str(bucket.regularisation or EMPTY),
            f"{bucket.cropped:.1%}",
            f"{bucket.most_cropped:.1%}",
            str(bucket.enlarged or EMPTY),
        )
        for bucket in buckets
    ]
    return Table(columns_of("size", *BUCKET_HEADS), tuple(rows), title="Buckets")


def tag_table(tags: Sequence[tuple[str, int]], most: int) -> Table:
    """Return the table of the most frequent tags."""
    rows = [row_of(shorten(tag, CAPTION_WIDTH), str(count)) for tag, count in tags[:most]]
    return Table(columns_of("tag", "images"), tuple(rows), title=f"Tags ({len(rows)} of {len(tags)})")


def row_of(*texts: str) -> Row:
    """Return a row of plain texts."""
    return tuple(map(Cell, texts))


def lines(survey: Survey) -> Iterator[str]:
    """Yield a line for each problem of the data, and whether a run would start."""
    if survey.folders and not survey.buckets:
        yield "Add --base or --resolution to see the buckets."
    yield from survey.notes
    yield from listed("Broken images", [f"{problem.path}: {problem.reason}" for problem in survey.broken])
    yield from listed("Images that cannot be used", [problem.reason for problem in survey.unusable])
    yield from listed("Images in formats that bwlab does not read", [str(path) for path in survey.unread])
    yield from listed("Equal files", [" = ".join(str(path) for path in group) for group in survey.duplicates])
    yield from listed("Images that look the same", [pair_text(pair) for pair in survey.near_duplicates])
    yield from listed(
        "Images smaller than their bucket, which will be enlarged", [str(path) for path in survey.enlarged]
    )
    if survey.long_captions:
        captions = [shorten(caption, CAPTION_WIDTH) for caption in survey.long_captions]
        yield from listed(
            f"Captions longer than {survey.token_limit} tokens, cut there (see data.max_tokens)", captions
        )
    if not survey.trainable:
        yield "No image can be trained: bwlab train would stop."
    elif survey.stops:
        yield "bwlab train would stop. Correct the broken images and the images that cannot be used."
    else:
        yield f"{counted(survey.trainable, 'image')} can be trained."


def pair_text(pair: NearDuplicate) -> str:
    """Return a line about two images that look the same."""
    verb = "differs" if pair.bits == 1 else "differ"
    return f"{pair.first} ~ {pair.second} ({pair.bits} of {pair.of} bits {verb})"


def listed(heading: str, entries: Sequence[str]) -> Iterator[str]:
    """Yield a heading with a count and the first entries, or nothing without entries."""
    if entries:
        yield f"{heading} ({len(entries)}):"
        yield from (f"  {entry}" for entry in entries[:LISTED_ENTRIES])
        if len(entries) > LISTED_ENTRIES:
            yield f"  ... and {len(entries) - LISTED_ENTRIES} more; --json lists all of them"
