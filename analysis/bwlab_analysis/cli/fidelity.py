"""`bwlab analyze activations`, `fidelity` and `recommend`: what adapters do in a base model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bwlab.errors import BwlabError
from bwlab_analysis.cli.options import (
    MOST_SEED,
    ClipOption,
    ClipSkipOption,
    DeviceOption,
    JsonOption,
    LatentsOption,
    ReportOption,
    SeedOption,
    TimestepsOption,
    progress,
)

AdapterArgument = Annotated[Path, typer.Argument(help="Adapter file.", show_default=False)]
BaseOption = Annotated[str, typer.Option(help="Base model: emoji, emoji-dit, a diffusers folder, or a checkpoint.")]
PromptsOption = Annotated[
    Path | None, typer.Option(help="Text file with one prompt per line.", metavar="FILE", show_default=False)
]
ImagesOption = Annotated[Path, typer.Option(help="Folder of reference images.", metavar="DIR", show_default=False)]
SeedsOption = Annotated[int, typer.Option(min=1, help="Number of images for each prompt.")]
StepsOption = Annotated[int, typer.Option(min=1, help="Number of sampling steps.")]
CfgOption = Annotated[float, typer.Option(help="Guidance scale.")]


def activations_command(
    file: AdapterArgument,
    base: BaseOption = "emoji",
    data: Annotated[Path | None, typer.Option(help="Folder of captioned images to measure on.", metavar="DIR")] = None,
    prompts: PromptsOption = None,
    timesteps: TimestepsOption = "801,601,401,201",
    latents: LatentsOption = 16,
    draws: Annotated[int, typer.Option("--random", min=0, help="Number of random adapters, as the null.")] = 3,
    seed: SeedOption = 0,
    clip_skip: ClipSkipOption = 1,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    report: ReportOption = None,
) -> None:
    """Measure what an adapter changes in every block at every timestep: effect, style, structure, representation.

    The latents are those of the images in --data, or of images that the base generates for --prompts.
    """
    from bwlab_analysis import analyze
    from bwlab_analysis.activations.inputs import parse_timesteps
    from bwlab_analysis.report.show import show

    with progress("measuring in the base") as on_progress:
        changes = analyze.activations(
            file,
            base=base,
            data=data,
            prompts=prompts or (),
            timesteps=parse_timesteps(timesteps),
            latents=latents,
            random=draws,
            seed=seed,
            clip_skip=clip_skip,
            device=device,
            on_progress=on_progress,
        )
    show(changes.presentation, changes.document, as_json=as_json, report=report)


def fidelity_command(
    adapter: Annotated[
        list[Path],
        typer.Option(
            help="Adapter file; give the option twice, for the identity adapter and then for the style adapter.",
            metavar="FILE",
            show_default=False,
        ),
    ],
    id_images: ImagesOption,
    style_images: ImagesOption,
    prompts: PromptsOption,
    base: BaseOption = "emoji",
    clip: ClipOption = None,
    seeds: SeedsOption = 4,
    steps: StepsOption = 25,
    cfg: CfgOption = 7.0,
    blocks: Annotated[
        bool,
        typer.Option(
            "--blocks/--no-blocks",
            help="Also score with each block of each adapter knocked in (alone) and knocked out.",
        ),
    ] = True,
    clip_skip: ClipSkipOption = 1,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    report: ReportOption = None,
) -> None:
    """Generate images with two adapters and score identity, style and text, for whole adapters and block by block."""
    from bwlab.terminal import warn
    from bwlab_analysis import analyze
    from bwlab_analysis.report.show import show

    with progress("sampling and scoring") as on_progress:
        scores = analyze.fidelity(
            *require_two(adapter),
            id_images=id_images,
            style_images=style_images,
            prompts=prompts or (),
            base=base,
            clip=clip,
            seeds=seeds,
            steps=steps,
            cfg=cfg,
            blocks=blocks,
            clip_skip=clip_skip,
            device=device,
            on_progress=on_progress,
            warn=warn,
        )
    show(scores.presentation, scores.document, as_json=as_json, report=report, images=scores.images)


def recommend_command(
    identity: AdapterArgument,
    style: AdapterArgument,
    id_images: ImagesOption,
    style_images: ImagesOption,
    prompts: PromptsOption,
    base: BaseOption = "emoji",
    clip: ClipOption = None,
    budget: Annotated[int, typer.Option(min=1, help="Maximum number of images of the search.")] = 600,
    search_steps: Annotated[int, typer.Option(min=1, help="Number of sampling steps of the search.")] = 10,
    seeds: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of images for each prompt of the proof; up to four times as many if these do not tell.",
        ),
    ] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Number of sampling steps of the proof.")] = 25,
    cfg: CfgOption = 7.0,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Number that is added to the seeds of the search.")
    ] = 0,
    clip_skip: ClipSkipOption = 1,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    report: ReportOption = None,
) -> None:
    """Search for scales and schedules of an identity and a style adapter that are better than both at scale 1.

    The search generates many compositions in few steps. Then the best one is proved: it is generated in full beside
    both adapters at scale 1, with seeds and, if there are several, prompts that the search did not use. If that leaves
    open whether it is better, twice as many images are made, and once more.
    """
    from bwlab.terminal import warn
    from bwlab_analysis import analyze
    from bwlab_analysis.report.show import show

    with progress("sampling and scoring") as on_progress:
        recommended = analyze.recommend(
            identity,
            style,
            id_images=id_images,
            style_images=style_images,
            prompts=prompts or (),
            base=base,
            clip=clip,
            budget=budget,
            search_steps=search_steps,
            seeds=seeds,
            steps=steps,
            cfg=cfg,
            seed=seed,
            clip_skip=clip_skip,
            device=device,
            on_progress=on_progress,
            warn=warn,
        )
    show(recommended.presentation, recommended.document, as_json=as_json, report=report, images=recommended.images)


def require_two(files: Sequence[Path]) -> tuple[Path, Path]:
    """Return the file of the identity adapter and of the style adapter; BwlabError unless there are two files."""
    if len(files) != 2:
        fix = "Give --adapter twice: the identity adapter, then the style adapter"
        raise BwlabError("scoring fidelity", f"{len(files)} --adapter", fix)
    return files[0], files[1]
