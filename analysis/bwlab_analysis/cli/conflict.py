"""`bwlab analyze conflict`: overlaps of adapters in their weights, and with a base, conflicts between them."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import fields
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from bwlab.errors import BwlabError
from bwlab_analysis.cli.options import (
    CellsOption,
    DeviceOption,
    JsonOption,
    LatentsOption,
    ReportOption,
    SeedOption,
    TimestepsOption,
)

if TYPE_CHECKING:
    from bwlab_analysis.activations.pair import BaseSettings, FilePair, PairInBase
    from bwlab_analysis.measures import Json
    from bwlab_analysis.report.presentation import Presentation
    from bwlab_analysis.weights.conflict import ConflictReport

Compared: TypeAlias = "tuple[ConflictReport, PairInBase | None]"


def conflict_command(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Two or more adapter files: a, b ...", show_default=False)],
    base: Annotated[
        str | None,
        typer.Option(
            help="Base model to measure activations and losses in: emoji, a diffusers folder, or a checkpoint.",
            show_default=False,
        ),
    ] = None,
    data_a: Annotated[
        Path | None,
        typer.Option(help="Folder of a's captioned training images, for the loss of a beside b.", metavar="DIR"),
    ] = None,
    data_b: Annotated[
        Path | None,
        typer.Option(help="Folder of b's captioned training images, for the loss of b beside a.", metavar="DIR"),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Text file with one prompt per line; the base generates images for them to measure on.", metavar="FILE"
        ),
    ] = None,
    timesteps: TimestepsOption = "801,601,401,201",
    latents: LatentsOption = 16,
    draws: Annotated[
        int, typer.Option("--random", min=0, help="Number of random adapters that replace each adapter, as the null.")
    ] = 5,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    cells: CellsOption = False,
    signs: Annotated[
        bool, typer.Option("--signs", help="Also measure the sign conflict, which multiplies all deltas out.")
    ] = False,
    report: ReportOption = None,
) -> None:
    """Compare two or more adapters by their weights and, with --base, by their effects on each other in a base model.

    The files alone give measures of the weights, each beside the value of a random pair. With --base, the activations
    of the base are compared with each adapter alone and with both. With the adapters' training images in --data-a and
    --data-b, the losses show how far one adapter harms the other, and which blocks to turn down. With more than two
    adapters, every pair is compared.
    """
    from bwlab_analysis.activations.pair import BaseSettings

    require_pairs(files, images=base is not None and bool(data_a or data_b))
    settings = None
    if base is not None:
        from bwlab_analysis.activations.inputs import parse_timesteps, require_inputs

        times = parse_timesteps(timesteps)
        texts = require_inputs(prompts, {"--data-a": data_a, "--data-b": data_b})
        settings = BaseSettings(base, data_a, data_b, texts, times, latents, draws, seed, device)
    else:
        _require_no_base_options(context, {field.name for field in fields(BaseSettings)})
    run_conflict(tuple(files), settings, signs=signs, cells=cells, as_json=as_json, report=report)


def require_pairs(files: Sequence[Path], images: bool) -> None:
    """Raise BwlabError for fewer than two files, or among more than two for a file given twice or for images."""
    if len(files) < 2:
        raise BwlabError("bwlab analyze conflict", f"{len(files)} adapter file", "Give two or more adapter files")
    if len(files) > 2 and len(set(files)) < len(files):
        raise BwlabError("bwlab analyze conflict", "a file is given twice", "Give each file once")
    if len(files) > 2 and images:
        fix = "Give two adapters, or leave out --data-a and --data-b"
        raise BwlabError("bwlab analyze conflict", f"{len(files)} adapters and images of a and b", fix)


def _require_no_base_options(context: typer.Context, base_options: Container[str]) -> None:
    """Raise BwlabError for options that have no effect without a base but were given."""
    for option in context.command.params:
        source = context.get_parameter_source(str(option.name))
        if option.name in base_options and source is not None and source.name == "COMMANDLINE":
            asked = f"bwlab analyze conflict {option.opts[0]}"
            raise BwlabError(asked, "this option needs a base model, and none is given", "Add --base BASE")


def run_conflict(
    files: Sequence[Path],
    settings: BaseSettings | None,
    *,
    signs: bool,
    cells: bool,
    as_json: bool,
    report: Path | None = None,
) -> None:
    """Compare two or more adapters and show the result; BwlabError if a file or the base cannot be used."""
    from bwlab_analysis.report.show import show

    pairs = compare_pairs(tuple(combinations(files, 2)), settings, signs)
    show(
        lambda: _presentation(files, pairs, cells),
        lambda: _document(pairs),
        as_json=as_json,
        report=report,
    )


def compare_pairs(pairs: Sequence[FilePair], settings: BaseSettings | None, signs: bool) -> list[Compared]:
    """Return the comparison of each pair's weights, made without torch, and its effects in a base if there is one."""
    from bwlab.plugins.manager import build_manager
    from bwlab.terminal import ProgressBar, warn
    from bwlab_analysis.activations.pair import measure_in_base
    from bwlab_analysis.installed import conflict_measures
    from bwlab_analysis.weights.adapter_weights import weights_of
    from bwlab_analysis.weights.conflict import measure_conflict

    manager = build_manager()
    measures = [measure for measure in conflict_measures(manager, warn) if signs or not measure.slow]
    weights = weights_of(settings.base if settings is not None else None)
    reports = [measure_conflict(a, b, measures, manager, weights) for a, b in pairs]
    in_base = {}
    if settings is not None:
        with ProgressBar("measuring in the base") as bar:
            in_base = measure_in_base(
                pairs, settings, manager, lambda done, total, stage: bar.update(done, total, stage)
            )
    return [(report, in_base.get(pair)) for report, pair in zip(reports, pairs, strict=True)]


def _presentation(files: Sequence[Path], pairs: Sequence[Compared], cells: bool) -> Presentation:
    from bwlab_analysis.report.conflict import present_conflict, present_conflicts

    return present_conflict(*pairs[0], cells) if len(pairs) == 1 else present_conflicts(files, pairs)


def _document(pairs: Sequence[Compared]) -> dict[str, Json]:
    from bwlab_analysis.report.documents import conflict_document, conflicts_document

    return conflict_document(*pairs[0]) if len(pairs) == 1 else conflicts_document(pairs)
