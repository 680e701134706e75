"""What `bwlab analyze conflict` does: weights first, without torch; then, with a base, the adapters at work."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import fields
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from bwlab.errors import BwlabError
from bwlab_analysis.cli.options import CellsOption, JsonOption, ReportOption, SeedOption
from bwlab_analysis.measures import SCHEMA_VERSION, Json

if TYPE_CHECKING:
    from rich.console import Console

    from bwlab_analysis.activations.pair import BaseSettings, FilePair, PairInBase
    from bwlab_analysis.weights.conflict import ConflictReport


Pair: TypeAlias = "tuple[ConflictReport, FilePair]"


def require_pairs(files: Sequence[Path], pictures: bool) -> None:
    """Raise BwlabError for fewer than two files, one of them twice among several, or pictures of more than two."""
    if len(files) < 2:
        raise BwlabError("bwlab analyze conflict", f"{len(files)} adapter file", "Give two or more")
    if len(files) > 2 and len(set(files)) < len(files):
        raise BwlabError("bwlab analyze conflict", "one file twice among several", "Give each file once")
    if len(files) > 2 and pictures:
        fix = "Give two adapters, or leave --data-a and --data-b out"
        raise BwlabError("bwlab analyze conflict", f"{len(files)} adapters and pictures of a and b", fix)


def run_conflict(
    files: Sequence[Path],
    settings: BaseSettings | None,
    *,
    signs: bool,
    cells: bool,
    as_json: bool,
    report: Path | None = None,
) -> None:
    """Compare two adapters or more and print what was found; BwlabError for what is wrong with them."""
    from bwlab.plugins.manager import build_manager
    from bwlab.terminal import warn
    from bwlab_analysis.activations.pair import measure_in_base
    from bwlab_analysis.installed import conflict_measures
    from bwlab_analysis.report.show import show
    from bwlab_analysis.weights.adapter_weights import weights_of
    from bwlab_analysis.weights.conflict import measure_conflict

    manager = build_manager()
    measures = [measure for measure in conflict_measures(manager, warn) if signs or not measure.slow]
    weights = weights_of(settings.base if settings is not None else None)
    pairs = [(measure_conflict(a, b, measures, manager, weights), (a, b)) for a, b in combinations(files, 2)]
    at_work = measure_in_base([files for _, files in pairs], settings, manager) if settings is not None else {}

    def tables(console: Console) -> None:
        if len(pairs) == 1:
            _print_pair(console, *pairs[0], at_work, cells)
        else:
            from bwlab_analysis.report.tables_base import print_matrix

            print_matrix(console, files, [(compared, at_work.get(pair)) for compared, pair in pairs])

    show(lambda: _document(pairs, at_work), tables, as_json=as_json, report=report)


def _print_pair(
    console: Console,
    report: ConflictReport,
    files: FilePair,
    at_work: dict[FilePair, PairInBase],
    cells: bool,
) -> None:
    from bwlab_analysis.report.tables_weights import print_conflict
    from bwlab_analysis.report.verdict import FROM_WEIGHTS

    print_conflict(console, report, cells)
    found = at_work.get(files)
    if found is None:
        console.print(FROM_WEIGHTS)
    else:
        from bwlab_analysis.report.advice import headline, remarks, steps_of
        from bwlab_analysis.report.tables_base import print_advice, print_blame, print_interaction, print_losses

        print_interaction(console, found.interaction)
        if found.losses:
            print_losses(console, found.losses)
        for line in (*remarks(found.losses), headline(found.losses)):
            console.print(line)
        print_blame(console, found.blame)
        print_advice(console, steps_of(found.blame), found.scheme)


def _document(pairs: Sequence[Pair], at_work: dict[FilePair, PairInBase]) -> dict[str, Json]:
    from bwlab_analysis.report.documents import base_conflict_document, conflict_document

    documents = [
        {**conflict_document(report), **(base_conflict_document(at_work[files]) if files in at_work else {})}
        for report, files in pairs
    ]
    if len(documents) == 1:
        return documents[0]
    return {"schema": "bwlab.analyze.conflicts", "schema_version": SCHEMA_VERSION, "pairs": list(documents)}


def conflict_command(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Two or more adapter files: a, b ...", show_default=False)],
    base: Annotated[
        str | None,
        typer.Option(
            help="Also look at a base at work: emoji, a diffusers folder, or a checkpoint.", show_default=False
        ),
    ] = None,
    data_a: Annotated[
        Path | None, typer.Option(help="a's own captioned pictures: what b does to a's loss.", metavar="DIR")
    ] = None,
    data_b: Annotated[
        Path | None, typer.Option(help="b's own captioned pictures: what a does to b's loss.", metavar="DIR")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts, one a line, that the base paints to look at.", metavar="FILE")
    ] = None,
    timesteps: Annotated[str, typer.Option(help="Of 0..999, separated by commas.", metavar="LIST")] = "801,601,401,201",
    latents: Annotated[int, typer.Option(min=1, help="Noisy latents to look at.")] = 16,
    draws: Annotated[int, typer.Option("--random", min=0, help="Random adapters for each null.")] = 5,
    seed: SeedOption = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")] = "auto",
    as_json: JsonOption = False,
    cells: CellsOption = False,
    signs: Annotated[
        bool, typer.Option("--signs", help="Also the sign conflict, which multiplies all deltas out.")
    ] = False,
    report: ReportOption = None,
) -> None:
    """Show where adapters meet: in their weights, each number beside that of a random pair, and in a base at work.

    FilePair alone tell about weights. With --base, what the adapters do to its activations, alone and together; with their
    own pictures in --data-a and --data-b, which blocks of one harm the other, and what to turn down. Of more than two
    adapters every pair is compared.
    """
    from bwlab_analysis.activations.pair import BaseSettings

    require_pairs(files, pictures=base is not None and bool(data_a or data_b))
    settings = None
    if base is not None:
        from bwlab_analysis.activations.inputs import parse_timesteps, require_inputs

        times = parse_timesteps(timesteps)
        texts = require_inputs(prompts, {"--data-a": data_a, "--data-b": data_b})
        settings = BaseSettings(base, data_a, data_b, texts, times, latents, draws, seed, device)
    else:
        _require_no_base_needed(context, {field.name for field in fields(BaseSettings)})
    run_conflict(tuple(files), settings, signs=signs, cells=cells, as_json=as_json, report=report)


def _require_no_base_needed(context: typer.Context, of_a_base: Container[str]) -> None:
    """Raise BwlabError for options that were given and mean nothing without a base."""
    from bwlab.errors import BwlabError

    for option in context.command.params:
        source = context.get_parameter_source(str(option.name))
        if option.name in of_a_base and source is not None and source.name == "COMMANDLINE":
            asked = f"bwlab analyze conflict {option.opts[0]}"
            raise BwlabError(asked, "it looks at a base, and there is none", "Add --base")
