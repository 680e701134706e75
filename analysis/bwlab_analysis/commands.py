"""``bwlab analyze``: what one adapter's weights hold, and where two meet."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from bwlab.merging.model_weights import ModelWeights

FileArgument = Annotated[Path, typer.Argument(help="An adapter file of any tool.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _checked_report(folder: Path | None) -> Path | None:
    """Make the folder of the report, or say why not, before any work is done."""
    if folder is not None:
        from bwlab_analysis.showing import make_report_folder

        make_report_folder(folder)
    return folder


ReportOption = Annotated[
    Path | None,
    typer.Option(help="Also write report.html there, one file for a browser.", metavar="DIR", callback=_checked_report),
]
CellsOption = Annotated[bool, typer.Option("--cells", help="Also per cell: one resnet/attention pair.")]
ModulesOption = Annotated[bool, typer.Option("--modules", help="Also per module.")]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        help="Also relative to a base's weights: emoji, a diffusers folder, or a checkpoint.", show_default=False
    ),
]

# torch's largest seed, with room for those of random adapters after it.
MOST_SEED = 2**63 - 1000
SeedOption = Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Of noise and random adapters.")]


def norms_command(
    file: FileArgument,
    base: WeightsOption = None,
    as_json: JsonOption = False,
    cells: CellsOption = False,
    modules: ModulesOption = False,
    report: ReportOption = None,
) -> None:
    """Show per block and kind of module how much an adapter changes, and how many directions it uses.

    With --base, also how much that is of the weights it changes; adapters such as OFT, whose files alone do not tell
    their deltas, need it.
    """
    from bwlab.cli.errors import warn
    from bwlab.plugins import build_manager
    from bwlab_analysis.documents import norms_document
    from bwlab_analysis.installed import block_metrics
    from bwlab_analysis.norms import measure_norms
    from bwlab_analysis.showing import show

    manager = build_manager()
    found = measure_norms(file, block_metrics(manager, warn), manager, weights_of(base))

    def tables(console: Console) -> None:
        from bwlab_analysis.tables import print_norms

        print_norms(console, found, cells, modules)

    show(lambda: norms_document(found), tables, as_json=as_json, report=report)


def weights_of(base: str | None) -> ModelWeights | None:
    """Return a base's weights, read as they are asked for; BwlabError if it is none."""
    if base is None:
        return None
    from bwlab.merging.model_weights import open_model

    return open_model(base)


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

    Files alone tell about weights. With --base, what the adapters do to its activations, alone and together; with their
    own pictures in --data-a and --data-b, which blocks of one harm the other, and what to turn down. Of more than two
    adapters every pair is compared.
    """
    from bwlab_analysis.conflict_command import Look, require_pairs, run_conflict

    require_pairs(files, pictures=base is not None and bool(data_a or data_b))
    look = None
    if base is not None:
        from bwlab_analysis.lab import checked_timesteps, prompts_beside

        times = checked_timesteps(timesteps)
        texts = prompts_beside(prompts, {"--data-a": data_a, "--data-b": data_b})
        look = Look(base, data_a, data_b, texts, times, latents, draws, seed, device)
    else:
        _require_no_base_needed(context, {field.name for field in fields(Look)})
    run_conflict(tuple(files), look, signs=signs, cells=cells, as_json=as_json, report=report)


def _require_no_base_needed(context: typer.Context, of_a_base: Container[str]) -> None:
    """Raise BwlabError for options that were given and mean nothing without a base."""
    from bwlab.errors import BwlabError

    for option in context.command.params:
        source = context.get_parameter_source(str(option.name))
        if option.name in of_a_base and source is not None and source.name == "COMMANDLINE":
            asked = f"bwlab analyze conflict {option.opts[0]}"
            raise BwlabError(asked, "it looks at a base, and there is none", "Add --base")


def add_to(app: typer.Typer) -> None:
    """Add the commands to ``bwlab analyze``."""
    app.command("norms")(norms_command)
    app.command("conflict")(conflict_command)
