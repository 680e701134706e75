"""The map of a model as a table that fits 100 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from bwlab.blocks.block_map import Level, MapRow
from bwlab.blocks.counts import Counts
from bwlab.blocks.naming import BlockScheme

UNKNOWN = "-"


def map_table(title: str, rows: Sequence[MapRow], whole: Counts, level: Level) -> Table:
    """Return the table: a row for each block or cell, and a last one for the whole UNet."""
    coarse = level == "block"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(level, style="bold", no_wrap=True)
    table.add_column("in diffusers", overflow="fold")
    for header in ("aliases", "part") if coarse else ():
        table.add_column(header)
    for header in ("LBW", "kohya"):
        table.add_column(header, no_wrap=True)
    for header in ("LoRA", "LoCon", "parameters"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        names = [", ".join(row.aliases), ", ".join(row.parts)] if coarse else []
        table.add_row(
            *map(Text, [row.name, _paths(row.paths), *names, _span(row.lbw), _places(row), *_counts(row.counts)])
        )
    table.add_section()
    blank = [""] * (5 if coarse else 3)
    table.add_row(*map(Text, ["UNet", *blank, *_counts(whole)]), style="bold")
    return table


def footer(scheme: BlockScheme, level: Level) -> list[str]:
    """Return the lines below the table: the parts, and what the columns mean."""
    parts = "; ".join(f"{part} = {_joined(members)}" for part, members in scheme.parts)
    lines = [
        f"parts: {parts}",
        "* = whatever no other entry of a spec names; for ranks, what all holds of it",
        "LoRA, LoCon: layers that they adapt; parameters: of the frozen UNet, text encoders are not counted",
    ]
    if scheme.ldm_cells():
        lines.append("LBW: cells of its strings; kohya: places in its lists, from 0")
    else:
        lines.append("no LBW cells, no kohya list: both need two layers per block")
    if level == "block":
        lines.append('one level finer: --cells; specs take all of these names: --blocks "in0=16, out3.2=4, *=0"')
    return lines


def _paths(paths: Sequence[str]) -> str:
    """The first path, then what differs: ``down_blocks.0.resnets.0, .attentions.0``."""
    first, *others = paths
    tree = ".".join(first.split(".")[:-2])
    return ", ".join([first, *(path.removeprefix(tree) if tree else path for path in others)])


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}" if names else ""


def _places(row: MapRow) -> str:
    places = row.kohya
    if len(places) > 1 and places[-1] - places[0] == len(places) - 1:
        return f"{places[0]}-{places[-1]}"
    return ",".join(map(str, places))


def _counts(counts: Counts | None) -> list[str]:
    if counts is None:
        return [UNKNOWN] * 3
    return [str(counts.lora), str(counts.locon), f"{counts.parameters:,}"]


def _joined(members: Sequence[str]) -> str:
    ends = len(members) > 3
    return f"{members[0]} ... {members[-1]}" if ends else " + ".join(members)
