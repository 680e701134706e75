"""`bwlab blocks`: the blocks of a model, and block specs in the notations of other tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bwlab.blocks.block_map import Counts, Level, MapRow
from bwlab.blocks.scheme import BlockScheme
from bwlab.errors import BwlabError
from bwlab.terminal import echo

if TYPE_CHECKING:
    from rich.table import Table

    from bwlab.blocks.notations.lists import Translation


ToOption = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--to", metavar="FORM SPEC", help="Translate a block spec to lbw, lbw-short, kohya, diffusers or a1111."
    ),
]
FromOption = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--from", metavar="FORM TEXT", help="Translate block numbers of lbw, kohya, diffusers or a1111 to a block spec."
    ),
]

UNKNOWN = "-"


def command(
    base: Annotated[
        str, typer.Argument(help="Base model: emoji, sd14, sd21, sdxl, a diffusers folder or a checkpoint.")
    ] = "emoji",
    cells: Annotated[
        bool,
        typer.Option("--cells", help="Show cells, which are one level finer: pairs of a resnet and a transformer."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    to: ToOption = None,
    from_: FromOption = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="Kind of the translated numbers: rank (default for kohya), scale (default elsewhere) or rate."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the adapter in the prompt tag of --to a1111.")] = None,
) -> None:
    """Show the blocks of a model, or translate block specs to and from the notations of other tools."""
    from bwlab.base.names import base_unet
    from bwlab.blocks.block_map import block_map
    from bwlab.blocks.families import scheme_for
    from bwlab.plugins.manager import installed_manager

    unet = base_unet(base)
    scheme = scheme_for(unet.config, installed_manager().block_schemes())
    if to or from_ or kind or name:
        _print_translation(_translation(scheme, to, from_, kind, name), as_json)
        return
    counts = unet.counts(scheme)
    rows = block_map(scheme, counts, "cell" if cells else "block")
    if as_json:
        echo(json.dumps(_as_dict(base, scheme, rows, counts), indent=2), exact=True)
    else:
        _print_table(base, scheme, rows, counts, cells)


def _translation(
    scheme: BlockScheme,
    to: tuple[str, str] | None,
    from_: tuple[str, str] | None,
    kind: str | None,
    name: str | None,
) -> Translation:
    from bwlab.blocks.notations.prompt_tag import DEFAULT_NAME
    from bwlab.blocks.notations.translate import TAG, translate_from, translate_to

    if name and (to is None or to[0] != TAG):
        raise BwlabError(f"--name {name}", "only prompt tags have names", f"Leave out --name, or give --to {TAG} SPEC")
    if to and not from_:
        return translate_to(*to, scheme, kind, name or DEFAULT_NAME)
    if from_ and not to:
        return translate_from(*from_, scheme, kind)
    found = "both are given" if to else "neither is given"
    raise BwlabError("a translation with --to or --from", found, "Give one of the two")


def _print_translation(result: Translation, as_json: bool) -> None:
    if as_json:
        echo(json.dumps(asdict(result)), exact=True)
        return
    echo(result.text, exact=True)
    for note in result.notes:
        echo(f"bwlab: note: {note}", err=True)


def _as_dict(base: str, scheme: BlockScheme, rows: list[MapRow], counts: dict[str, Counts]) -> dict[str, object]:
    from bwlab.blocks.block_map import total

    return {
        "base": base,
        "scheme": scheme.name,
        "rows": [row.as_dict() for row in rows],
        "parts": dict(scheme.parts),
        "total": asdict(total(counts.values())),
    }


def _print_table(base: str, scheme: BlockScheme, rows: list[MapRow], counts: dict[str, Counts], cells: bool) -> None:
    from bwlab.blocks.block_map import total
    from bwlab.terminal import stdout_console

    level: Level = "cell" if cells else "block"
    console = stdout_console()
    console.print(map_table(f"{base}: blocks of the scheme {scheme.name}", rows, total(counts.values()), level))
    for line in footer(scheme, level):
        console.print(line, highlight=False, markup=False)


def map_table(title: str, rows: Sequence[MapRow], whole: Counts, level: Level) -> Table:
    """Return the table, with a row for each block or cell and a last row for the whole UNet."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

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
            *map(Text, [row.name, _paths(row.paths), *names, _span(row.lbw), _indices(row), *_counts(row.counts)])
        )
    table.add_section()
    blank = [""] * (5 if coarse else 3)
    table.add_row(*map(Text, ["UNet", *blank, *_counts(whole)]), style="bold")
    return table


def footer(scheme: BlockScheme, level: Level) -> list[str]:
    """Return the lines below the table: the parts and the meaning of the columns."""
    parts = "; ".join(f"{part} = {_joined(members)}" for part, members in scheme.parts)
    lines = [
        f"parts: {parts}",
        "* = every block that no other entry of a spec names; for ranks, only those of the part all",
        "LoRA, LoCon: number of layers that they adapt; parameters: of the frozen UNet, without text encoders",
    ]
    if scheme.ldm_cells():
        lines.append("LBW: cells of LBW strings; kohya: indices in kohya's lists, from 0")
    else:
        lines.append("no LBW cells and no kohya list: both need two layers per block")
    if level == "block":
        lines.append('one level finer: --cells; specs take all of these names: --blocks "in0=16, out3.2=4, *=0"')
    return lines


def _paths(paths: Sequence[str]) -> str:
    """Return the first path, then the parts in which the others differ: `down_blocks.0.resnets.0, .attentions.0`."""
    first, *others = paths
    tree = ".".join(first.split(".")[:-2])
    return ", ".join([first, *(path.removeprefix(tree) if tree else path for path in others)])


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}" if names else ""


def _indices(row: MapRow) -> str:
    indices = row.kohya
    if len(indices) > 1 and indices[-1] - indices[0] == len(indices) - 1:
        return f"{indices[0]}-{indices[-1]}"
    return ",".join(map(str, indices))


def _counts(counts: Counts | None) -> list[str]:
    if counts is None:
        return [UNKNOWN] * 3
    return [str(counts.lora), str(counts.locon), f"{counts.parameters:,}"]


def _joined(members: Sequence[str]) -> str:
    ends = len(members) > 3
    return f"{members[0]} ... {members[-1]}" if ends else " + ".join(members)
