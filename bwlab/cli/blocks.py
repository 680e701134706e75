"""``bwlab blocks``: which block is which, and block numbers in other tools' notation."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from bwlab.blocks.block_map import Level, MapRow
    from bwlab.blocks.counts import Counts
    from bwlab.blocks.lbw import Translation
    from bwlab.blocks.scheme import BlockScheme

WIDTH = 100  # of tables where there is no terminal to ask

ToOption = Annotated[
    tuple[str, str] | None,
    typer.Option("--to", metavar="FORM SPEC", help="Translate a spec to lbw, lbw-short, kohya, diffusers or a1111."),
]
FromOption = Annotated[
    tuple[str, str] | None,
    typer.Option("--from", metavar="FORM TEXT", help="Translate to a spec from lbw, kohya, diffusers or a1111."),
]


def command(
    base: Annotated[str, typer.Argument(help="emoji, sd14, sd21, sdxl, a diffusers folder or a checkpoint.")] = "emoji",
    cells: Annotated[bool, typer.Option("--cells", help="One level finer: pairs of resnet and transformer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    to: ToOption = None,
    from_: FromOption = None,
    kind: Annotated[
        str | None,
        typer.Option(help="Of translated numbers: rank (usual with kohya), scale (else) or rate."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the adapter, in the prompt tag of --to a1111.")] = None,
) -> None:
    """Show which block is which in a model, or translate block numbers from and to other tools' notation."""
    from bwlab.blocks.bases import base_unet
    from bwlab.blocks.block_map import block_map
    from bwlab.blocks.scheme import scheme_for
    from bwlab.plugins import build_manager

    unet = base_unet(base)
    scheme = scheme_for(unet.config, build_manager().block_schemes())
    if to or from_ or kind or name:
        _print_translation(_translation(scheme, to, from_, kind, name), as_json)
        return
    counts = unet.counts(scheme)
    rows = block_map(scheme, counts, "cell" if cells else "block")
    if as_json:
        typer.echo(json.dumps(_as_dict(base, scheme, rows, counts), indent=2))
    else:
        _print_table(base, scheme, rows, counts, cells)


def _translation(
    scheme: BlockScheme,
    to: tuple[str, str] | None,
    from_: tuple[str, str] | None,
    kind: str | None,
    name: str | None,
) -> Translation:
    from bwlab.blocks.prompt_tag import DEFAULT_NAME
    from bwlab.blocks.translate import TAG, translate_from, translate_to

    if name and (to is None or to[0] != TAG):
        raise BwlabError(f"--name {name}", "only prompt tags have names", f"Leave it out, or give --to {TAG} SPEC")
    if to and not from_:
        return translate_to(*to, scheme, kind, name or DEFAULT_NAME)
    if from_ and not to:
        return translate_from(*from_, scheme, kind)
    found = "both are given" if to else "neither is given"
    raise BwlabError("a translation with --to or --from", found, "Give one of the two")


def _print_translation(result: Translation, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(result)))
        return
    typer.echo(result.text)
    for note in result.notes:
        typer.echo(f"bwlab: note: {note}", err=True)


def _as_dict(base: str, scheme: BlockScheme, rows: list[MapRow], counts: dict[str, Counts]) -> dict[str, object]:
    from bwlab.blocks.counts import total

    return {
        "base": base,
        "scheme": scheme.name,
        "rows": [row.as_dict() for row in rows],
        "parts": dict(scheme.parts),
        "total": asdict(total(counts.values())),
    }


def _print_table(base: str, scheme: BlockScheme, rows: list[MapRow], counts: dict[str, Counts], cells: bool) -> None:
    from rich.console import Console

    from bwlab.blocks.block_table import footer, map_table
    from bwlab.blocks.counts import total

    level: Level = "cell" if cells else "block"
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(map_table(f"{base}: blocks of the scheme {scheme.name}", rows, total(counts.values()), level))
    for line in footer(scheme, level):
        console.print(line, highlight=False, markup=False)
