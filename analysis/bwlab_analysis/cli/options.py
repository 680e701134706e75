"""The options that commands of `bwlab analyze` share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

FileArgument = Annotated[Path, typer.Argument(help="An adapter file of any tool.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def _checked_report(folder: Path | None) -> Path | None:
    """Check the folder of the report before any work is done; BwlabError if it cannot be written."""
    if folder is not None:
        from bwlab_analysis.report.page import require_report_folder

        require_report_folder(folder)
    return folder


ReportOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder to write report.html to, a single file for a web browser.", metavar="DIR", callback=_checked_report
    ),
]
CellsOption = Annotated[
    bool, typer.Option("--cells", help="Also show cells, which are single pairs of a resnet and a transformer.")
]
ModulesOption = Annotated[bool, typer.Option("--modules", help="Also show modules.")]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        help="Base model to compare the weights with: emoji, emoji-dit, a diffusers folder, or a checkpoint.",
        show_default=False,
    ),
]

# The largest seed of torch, less the seeds that random adapters need after it.
MOST_SEED = 2**63 - 1000
SeedOption = Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed for the noise and for the random adapters.")]

TimestepsOption = Annotated[
    str, typer.Option(help="Timesteps to measure at, each in 0..999, separated by commas.", metavar="LIST")
]
LatentsOption = Annotated[int, typer.Option(min=1, help="Number of noisy latents to measure on.")]
ClipOption = Annotated[
    str | None,
    typer.Option(help="open_clip model to score with: a folder, or NAME=WEIGHTS.", metavar="MODEL"),
]
ClipSkipOption = Annotated[
    int,
    typer.Option(help="Layer of the text encoder that is read, counted from the last one, which is 1.", min=1, max=12),
]
DeviceOption = Annotated[str, typer.Option(help="Device: auto, cpu, cuda, cuda:1, mps ...")]


@contextmanager
def progress(text: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function that shows (done, total, stage) in a bar, which appears when it is first called."""
    from bwlab.terminal import ProgressBar

    with ExitStack() as held:
        bars: list[ProgressBar] = []

        def show(done: int, total: int, stage: str = "") -> None:
            if not bars:
                bars.append(held.enter_context(ProgressBar(text)))
            bars[0].update(done, total, stage)

        yield show
