"""How every command shows what it found: tables, or JSON, and a report where one was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab_analysis.measures import Json

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console


def show(
    document: Callable[[], Mapping[str, Json]],
    print_tables: Callable[[Console], None],
    *,
    as_json: bool,
    report: Path | None,
    pictures: Callable[[], Mapping[str, Image]] = dict,
) -> None:
    """Print tables or JSON on standard output, and write the report.

    Args:
        document: returns what was found as JSON.
        print_tables: prints it as tables.
        as_json: whether JSON is printed instead of tables.
        report: folder of the report, or None.
        pictures: returns pictures for the report, by name.

    """
    document = cache(document)
    if as_json:
        print_json(document())
    else:
        from bwlab.terminal import stdout_console

        print_tables(stdout_console())
    if report is not None:
        from rich.console import Console

        from bwlab_analysis.report.page import write_report

        path = write_report([document()], report, pictures(), typed_command())
        Console(stderr=True, highlight=False, markup=False).print(f"The report is {path}", soft_wrap=True)


def print_json(document: Mapping[str, Json]) -> None:
    """Print a document as JSON."""
    import json

    import typer

    typer.echo(json.dumps(document, indent=2, allow_nan=False))


def typed_command() -> str:
    """Return the command line that is running."""
    import shlex
    import sys

    return shlex.join(["bwlab", *sys.argv[1:]])
