"""`bwlab inspect`: show the contents of adapter files, and their problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bwlab.terminal import counted, echo, print_error
from bwlab.text import single_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from bwlab.inspection.health import Severity
    from bwlab.inspection.report import BlockSummary, Inspection


MOST_LISTED = 4  # different ranks or alphas

STYLES: Mapping[Severity, str] = {"error": "bold red", "warning": "yellow", "note": "dim"}


def command(
    files: Annotated[
        list[Path],
        typer.Argument(help="Adapter files of any tool; .pt and .bin files are read without running code in them."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the contents of adapter files: dialect, algorithm, model, ranks and modules per block, training, and health.

    Health lists NaN and infinite numbers, modules that change nothing, rank-1 spikes, and mistakes of other tools. Of
    several files, one that cannot be read costs a line; the exit code is then 2.
    """
    import json

    from bwlab.errors import BwlabError
    from bwlab.inspection.report import inspect_file
    from bwlab.plugins.manager import installed_manager

    manager = installed_manager()
    unread: list[BwlabError] = []

    def readable() -> Iterator[Inspection]:
        for file in files:
            try:
                yield inspect_file(file, manager)
            except BwlabError as error:
                if len(files) == 1:
                    raise
                print_error(error)
                unread.append(error)

    reports = readable()
    if as_json:
        from bwlab.inspection.report import document

        echo(json.dumps(document(reports), indent=2, allow_nan=False), exact=True)
        raise typer.Exit(2 if unread else 0)
    from bwlab.terminal import stdout_console

    console = stdout_console()
    for number, report in enumerate(reports):
        if number:
            console.print()
        print_inspection(console, report)
    raise typer.Exit(2 if unread else 0)


def print_inspection(console: Console, report: Inspection) -> None:
    """Print a report: the file, its blocks, its training and its health."""
    from rich.text import Text

    console.print(Text(single_line(str(report.path)), style="bold"), soft_wrap=True)
    console.print(_pairs(dict(_facts(report))))
    if report.blocks:
        console.print(_block_table(report))
    if report.training:
        console.print(Text("training", style="bold"))
        console.print(_pairs(report.training))
    console.print(Text("health", style="bold"))
    if not report.findings:
        console.print("  no problems found")
        return
    lines = _grid("")
    for finding in report.findings:
        lines.add_row(Text(finding.severity, style=STYLES[finding.severity]), Text(single_line(finding.text)))
    console.print(lines)


def _facts(report: Inspection) -> Iterator[tuple[str, str]]:
    yield "dialect", report.dialect
    if report.total.modules:
        yield "algorithm", _counts(report.total.algorithms)
        yield "made for", f"{_model(report)} (block scheme {report.scheme})"
        yield "ranks", _counts(report.total.ranks) or "none"
        yield "alphas", _counts({_alpha(alpha): count for alpha, count in report.total.alphas.items()}) or "none"
        text = sum(block.modules for block in report.blocks if block.name == "te")
        yield "text encoder", counted(text, "module") if text else "not adapted"
    if report.embeddings:
        shapes = (f"{token} ({' x '.join(map(str, shape))})" for token, shape in report.embeddings.items())
        yield "embeddings", ", ".join(shapes)
    numbers = ", ".join(f"{count:,} {dtype}" for dtype, count in report.dtypes.items())
    yield "numbers", f"{numbers}; {report.size:,} bytes"
    if report.top1_share is not None:
        yield "top-1 share", f"{100 * report.top1_share:.0f} % of the energy is in each module's first direction"
    if report.prompt_tag is not None:
        yield "in A1111", report.prompt_tag


def _model(report: Inspection) -> str:
    from bwlab.formats.architecture import ARCHITECTURE_NAMES

    if report.architecture != "unknown":
        return ARCHITECTURE_NAMES[report.architecture]
    base = report.training.get("base model")
    return "a model unknown to bwlab" + (f", in training called {base}" if base else "")


def _pairs(facts: Mapping[str, str]) -> Table:
    from rich.text import Text

    table = _grid("dim")
    for label, text in facts.items():
        table.add_row(Text(single_line(label)), Text(single_line(text)))
    return table


def _grid(style: str) -> Table:
    """Return an indented grid of two columns without lines."""
    from rich.table import Table

    table = Table.grid(padding=(0, 0, 0, 2), pad_edge=True)
    table.add_column(no_wrap=True, style=style)
    table.add_column(overflow="fold")
    return table


def _block_table(report: Inspection) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    energies = report.total.energy_share is not None
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("block", style="bold", no_wrap=True)
    table.add_column("modules", justify="right", no_wrap=True)
    table.add_column("algorithms", overflow="fold")
    table.add_column("ranks", overflow="fold")
    table.add_column("alphas", overflow="fold")
    if energies:
        table.add_column("energy", justify="right", no_wrap=True)
    for block in report.blocks:
        table.add_row(*map(Text, _row(block, energies)))
    table.add_section()
    table.add_row(*map(Text, _row(report.total, energies)), style="bold")
    if report.empty_blocks:
        table.caption = f"no module in {', '.join(report.empty_blocks)}"
        table.caption_justify = "left"
    return table


def _row(block: BlockSummary, energies: bool) -> list[str]:
    share = "-" if block.energy_share is None else f"{100 * block.energy_share:.1f} %"
    return [
        block.name,
        str(block.modules),
        _counts(block.algorithms),
        _counts(block.ranks) or "-",
        _counts({_alpha(alpha): count for alpha, count in block.alphas.items()}) or "-",
        *([share] if energies else []),
    ]


def _counts(counts: Mapping[str, int] | Mapping[int, int]) -> str:
    """Return names with their counts; a single name without its count."""
    names = [str(name) for name in counts]
    if len(names) == 1:
        return names[0]
    listed = [f"{name} ({count})" for name, count in zip(names, counts.values(), strict=True)]
    return ", ".join(listed[:MOST_LISTED]) + (
        f" and {len(listed) - MOST_LISTED} more" if len(listed) > MOST_LISTED else ""
    )


def _alpha(alpha: float | None) -> str:
    return "as the rank" if alpha is None else f"{alpha:g}"
