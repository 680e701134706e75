"""Show a result on the terminal, as JSON, and as a report in one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.tables import Table, print_table
from bwlab.terminal import echo
from bwlab_analysis.measures import Json
from bwlab_analysis.report.presentation import BlockMap, Item, Listing, Presentation, Verbatim

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console


def show(
    presentation: Callable[[], Presentation],
    document: Callable[[], Mapping[str, Json]],
    *,
    as_json: bool,
    report: Path | None,
    images: Callable[[], Mapping[str, Image]] = dict,
    details: bool = False,
) -> None:
    """Print a result on standard output as tables or JSON, and write the report.

    Args:
        presentation: function that returns the presentation of the result.
        document: function that returns the result as JSON.
        as_json: whether to print JSON instead of tables.
        report: folder of the report, or None for no report.
        images: function that returns the images of the report by name.
        details: whether to print the sections that are details.

    """
    if as_json:
        print_json(document())
    else:
        from bwlab.terminal import stdout_console

        print_presentation(stdout_console(), presentation(), details)
    if report is not None:
        from bwlab.terminal import stderr_console
        from bwlab_analysis.report.page import write_report

        path = write_report([presentation()], report, images(), typed_command())
        stderr_console().print(f"The report is {path}", soft_wrap=True)


def print_presentation(console: Console, presentation: Presentation, details: bool = False) -> None:
    """Print a presentation on a terminal, with the sections that are details if `details`."""
    sections = [section for section in presentation.details if not section.page_only]
    shown = [section for section in sections if details or not section.detail]
    for section in [presentation.conclusion, *shown] if presentation.short else [*shown, presentation.conclusion]:
        console.print(section.title, style="bold underline")
        for item in section.items:
            print_item(console, item)
    if len(shown) < len(sections):
        console.print("More with --details, and all in --report DIR and --json.")


def print_item(console: Console, item: Item) -> None:
    """Print one item; a drawing of blocks is not shown on a terminal."""
    match item:
        case str():
            console.print(item)
        case Table():
            print_table(console, item)
        case Listing(lines):
            for line in lines:
                console.print(f"- {line}")
        case Verbatim(lines):
            for line in lines:
                console.print(line, soft_wrap=True)
        case BlockMap():
            pass


def print_json(document: Mapping[str, Json]) -> None:
    """Print a document as JSON."""
    import json

    echo(json.dumps(document, indent=2, allow_nan=False), exact=True)


def typed_command() -> str:
    """Return the command line of this process."""
    import shlex
    import sys

    return shlex.join(["bwlab", *sys.argv[1:]])
