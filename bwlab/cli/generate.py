"""`bwlab generate`: pictures from prompts, a base model and adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bwlab.base.device import AUTO
from bwlab.generation.controlnet import EDGE_MAPS
from bwlab.generation.job import WEIGHTINGS
from bwlab.generation.samplers import DEFAULT_SAMPLER, SAMPLERS

SCALE_HELP = (
    'Strength of the adapter in the same place: a number or a block spec such as "*=0, upper=1"; '
    "blocks not named keep 1. [default: 1]"
)
SCHEDULE_HELP = (
    'When the adapter in the same place acts, "0-0.4:1, 0.4-1:0.3": fractions of the sampling, factors of the scale; '
    "elsewhere 0. [default: 1]"
)
XY_HELP = (
    'A labelled sheet of what two things do, such as "scale: 0, 0.5, 1" "blocks: upper=1 | lower=1"; '
    'the second may be "".'
)


def command(
    prompt: Annotated[list[str], typer.Option(help="What to paint (repeatable).", metavar="TEXT")],
    base: Annotated[
        str, typer.Option(help="Base model: emoji, a diffusers folder, a checkpoint or a hub id.")
    ] = "emoji",
    adapter: Annotated[
        list[Path] | None, typer.Option(help="Adapter file (repeatable; several add up).", metavar="FILE")
    ] = None,
    scale: Annotated[list[str] | None, typer.Option(help=SCALE_HELP, metavar="SPEC")] = None,
    schedule: Annotated[list[str] | None, typer.Option(help=SCHEDULE_HELP, metavar="SPANS")] = None,
    embedding: Annotated[
        list[str] | None, typer.Option(help="Textual-inversion file (repeatable).", metavar="FILE[=WORD]")
    ] = None,
    negative: Annotated[str, typer.Option(help="What to keep away from.", metavar="TEXT")] = "",
    image: Annotated[Path | None, typer.Option(help="Picture to start from.", metavar="FILE")] = None,
    mask: Annotated[Path | None, typer.Option(help="Where to repaint it: white.", metavar="FILE")] = None,
    strength: Annotated[float | None, typer.Option(help="How far to leave it, 0 to 1. [default: 0.75]")] = None,
    controlnet: Annotated[
        str | None, typer.Option(help="ControlNet: emoji, or a diffusers folder.", metavar="NAME")
    ] = None,
    control_image: Annotated[
        Path | None, typer.Option(help="Picture whose lines say where things go.", metavar="FILE")
    ] = None,
    control: Annotated[str, typer.Option(help=f"How lines are found: {', '.join(EDGE_MAPS)}.")] = "canny",
    control_scale: Annotated[float, typer.Option(help="How strongly they act.")] = 1.0,
    control_end: Annotated[float, typer.Option(help="Part of the sampling after which they do not.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of each prompt's first picture.")] = 0,
    count: Annotated[int, typer.Option(help="Pictures a prompt, with seeds counting up.")] = 1,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 25,
    cfg: Annotated[float, typer.Option(help="Guidance scale; up to 1 means none.")] = 7.0,
    sampler: Annotated[str, typer.Option(help=f"One of {', '.join(SAMPLERS)}.")] = DEFAULT_SAMPLER,
    weighting: Annotated[
        str | None, typer.Option(help=f"Read weights in prompts, as {' or '.join(WEIGHTINGS)} does.")
    ] = None,
    xy: Annotated[tuple[str, str] | None, typer.Option(help=XY_HELP, metavar="COLUMNS ROWS")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")] = AUTO,
    out: Annotated[Path, typer.Option(help="Folder of the pictures.", metavar="DIR")] = Path("pictures"),
    grid: Annotated[bool, typer.Option("--grid", help="Also write all pictures on one labelled sheet.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Number from 0 and replace files instead of counting on.")
    ] = False,
) -> None:
    """Paint pictures with a base model and any number of adapters.

    Scales and schedules are paired with adapters in order. Every PNG carries the recipe it was made by.
    """
    from bwlab.generation.job import GenerateJob
    from bwlab.generation.run import run_job
    from bwlab.plugins.manager import build_manager
    from bwlab.terminal import stderr_console

    job = GenerateJob(
        prompts=tuple(prompt),
        base=base,
        adapters=tuple(adapter or ()),
        scales=tuple(scale or ()),
        schedules=tuple(schedule or ()),
        embeddings=tuple(embedding or ()),
        negative=negative,
        image=image,
        mask=mask,
        strength=strength,
        controlnet=controlnet,
        control_image=control_image,
        control=control,
        control_scale=control_scale,
        control_end=control_end,
        weighting=weighting,
        seed=seed,
        count=count,
        steps=steps,
        cfg=cfg,
        sampler=sampler,
        xy=tuple(axis for axis in xy or () if axis),
        device=device,
        out=out,
        grid=grid,
        overwrite=overwrite,
    )
    for path in run_job(job, build_manager(), stderr_console()):
        typer.echo(path)
