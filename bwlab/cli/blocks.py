"""`bwlab blocks`: the blocks of a model, and block specs in the notations of other tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bwlab.blocks.block_map import Counts, Level, MapRow
from bwlab.blocks.notations.lists import kohya_indices
from bwlab.blocks.scheme import ALL, BlockScheme, with_ranges
from bwlab.errors import BwlabError
from bwlab.terminal import echo, note

if TYPE_CHECKING:
    from rich.table import Table

    from bwlab.blocks.notations.lists import Translation


ToOption = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--to",
        metavar="FORM SPEC",
        help="Translate a block spec to lbw, lbw-short, lbw-full, kohya, diffusers or a1111.",
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
        str,
        typer.Argument(
            help="Base model: emoji, emoji-dit, sd14, sdxl, flux or another known name, a folder or a checkpoint."
        ),
    ] = "emoji",
    cells: Annotated[
        bool,
        typer.Option(
            "--cells",
            help="Show cells, which are one level finer: a resnet with its transformer, or a stream of a block.",
        ),
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
    for text in result.notes:
        note(text)


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
    title = f"{base}: blocks of the scheme {scheme.name}"
    whole = "UNet" if scheme.denoiser == "UNet" else "model"  # "transformer" would widen the column of names
    console.print(map_table(title, rows, total(counts.values()), level, whole))
    for line in footer(scheme, level):
        console.print(line, highlight=False, markup=False)


def map_table(title: str, rows: Sequence[MapRow], whole: Counts, level: Level, name: str = "UNet") -> Table:
    """Return the table, with a row for each block or cell and a last row of this name for the whole denoiser.

    Names that no row has, such as LBW's of most transformers, get no column.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(level, style="bold", no_wrap=True)
    texts = [[row.name] for row in rows]
    for header, column in _columns(rows, level).items():
        if any(column):
            table.add_column(header, overflow="fold", no_wrap=header in ("LBW", "kohya"))
            texts = [[*text, entry] for text, entry in zip(texts, column, strict=True)]
    blank = [""] * (len(table.columns) - 1)
    # Transformers have no convolutions, so LoCon adapts there what LoRA adapts.
    headers = ("LoRA", "LoCon", "parameters") if whole.lora != whole.locon else ("LoRA", "parameters")
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for row, text in zip(rows, texts, strict=True):
        table.add_row(*map(Text, [*text, *_counts(row.counts, headers)]))
    table.add_section()
    table.add_row(*map(Text, [name, *blank, *_counts(whole, headers)]), style="bold")
    return table


def _columns(rows: Sequence[MapRow], level: Level) -> dict[str, list[str]]:
    """Return header -> the text of each row, for the columns of names."""
    names = {
        "aliases": [", ".join(row.aliases) for row in rows],
        "part": [", ".join(row.parts) for row in rows],
    }
    return {
        "in diffusers": [_paths(row.paths) for row in rows],
        **(names if level == "block" else {}),
        "LBW": [_span(row.lbw) for row in rows],
        "kohya": [_indices(row) for row in rows],
    }


def footer(scheme: BlockScheme, level: Level) -> list[str]:
    """Return the lines below the table: the parts and the meaning of the columns."""
    adapters = "LoRA, LoCon" if scheme.denoiser == "UNet" else "LoRA"
    parts = "; ".join(f"{part} = {_joined(members)}" for part, members in scheme.parts)
    lines = [
        f"parts: {parts}",
        "* = every block that no other entry of a spec names; for ranks, only those of the part all",
        f"{adapters}: number of layers that they adapt; parameters: of the frozen {scheme.denoiser}, "
        "without text encoders",
    ]
    if scheme.apart:
        lines.append("modulation gets a rank only under names of its own: modulation, or the cell of a block")
    if not scheme.ldm_cells():
        lines.append("no LBW cells and no kohya list: both need two layers per block")
    elif kohya_indices(scheme):
        lines.append("LBW: cells of LBW strings; kohya: indices in kohya's lists, from 0")
    else:
        lines.append("LBW: cells of LBW strings")
    if level == "block":
        lines.append(f'one level finer: --cells; specs take all of these names: --blocks "{_example(scheme)}"')
    return lines


def _example(scheme: BlockScheme) -> str:
    """Return a spec that shows a block or a range, and a cell."""
    members = dict(scheme.parts)
    blocks = members[ALL]
    first = with_ranges(members["early"], shortest=2)[0] if "early" in members else blocks[0]
    cell = next((cell for cell in reversed(scheme.cells()) if cell.startswith(f"{blocks[-1]}.")), blocks[-1])
    return f"{first}=16, {cell}=4, *=0"


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


def _counts(counts: Counts | None, headers: Sequence[str]) -> list[str]:
    if counts is None:
        return [UNKNOWN] * len(headers)
    texts = {"LoRA": str(counts.lora), "LoCon": str(counts.locon), "parameters": f"{counts.parameters:,}"}
    return [texts[header] for header in headers]


def _joined(members: Sequence[str]) -> str:
    ends = len(members) > 3
    return f"{members[0]} ... {members[-1]}" if ends else " + ".join(members)
