"""A survey of the data as tables and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bwlab.training.data.findings import BucketCount, FolderCount, Survey

SCHEMA = "bwlab.data.check"
VERSION = 1
CAPTION_WIDTH = 80
SHOWN = 10  # files of a list; --json has all


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
    return Text(text, style="bold")


def new_table(*columns: str) -> Table:
    """Return an empty table whose first column is text and whose others are numbers."""
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    return table


def folder_table(folders: Sequence[FolderCount]) -> Table:
    """Return the table of folders."""
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
