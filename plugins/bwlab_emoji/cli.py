"""`bwlab base`: build the embedded base model again, and measure it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bwlab.terminal import echo, stderr_console, stdout_console

app = typer.Typer(help="Build and measure the embedded base model.", no_args_is_help=True)


class Stage(StrEnum):
    """A stage of the build."""

    vae = "vae"
    text = "text"
    unet = "unet"


class Kind(StrEnum):
    """A kind of denoiser."""

    unet = "unet"
    dit = "dit"


WorkOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of downloads, caches and checkpoints. [default: base-build in the cache folder]", metavar="DIR"
    ),
]


def _work_folder(work: Path | None) -> Path:
    from bwlab.files import cache_folder

    return work if work is not None else cache_folder() / "base-build"


@app.command("build")
def build_command(
    out: Annotated[Path, typer.Option(help="Diffusers pipeline folder to write.")] = Path("emoji_base"),
    work: WorkOption = None,
    kind: Annotated[
        Kind, typer.Option(help="Denoiser: a UNet, or a transformer (a small Stable Diffusion 3).")
    ] = Kind.unet,
    stage: Annotated[
        list[Stage] | None, typer.Option(help="Run only this stage of a UNet's build. Can be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed for every random choice.")] = 0,
    vae_steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of the autoencoder.")] = 6_500,
    unet_steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of UNet and text encoder.")] = 6_500,
    dit_steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of the transformer.")] = 2_500,
    compile_unet: Annotated[bool, typer.Option("--compile", help="Use torch.compile (needs a C++ compiler).")] = False,
) -> None:
    """Train the embedded base on the emoji packages of npm, from the last checkpoint if there is one."""
    from bwlab_emoji.build import STAGES, BuildConfig, build

    console = stderr_console()
    if kind is Kind.dit:
        from bwlab_emoji.dit import TransformerConfig, build_transformer

        transformer = TransformerConfig(
            out=out, work=_work_folder(work), seed=seed, steps=dit_steps, compile_model=compile_unet
        )
        build_transformer(transformer, console)
        console.print(f"The pipeline is in {out}.")
        return
    config = BuildConfig(
        out=out,
        work=_work_folder(work),
        seed=seed,
        vae_steps=vae_steps,
        unet_steps=unet_steps,
        compile_unet=compile_unet,
    )
    stages = tuple(chosen.value for chosen in stage) if stage else STAGES
    build(config, console, stages)
    console.print(f"Done: {', '.join(stages)}. Checkpoints are in {config.work}.")
    if "unet" in stages:
        console.print(f"The pipeline is in {out}.")


@app.command("measure")
def measure_command(
    base: Annotated[str, typer.Argument(help="Base model: emoji, emoji-dit or a pipeline folder.")] = "emoji",
    work: WorkOption = None,
    cfg: Annotated[float, typer.Option(help="Guidance scale; the quality bar allows at most 7.")] = 4.0,
    count: Annotated[int, typer.Option(min=1, help="Number of captions to generate images for.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed for the choice of captions and for noise.")] = 0,
    sheet: Annotated[
        Path | None, typer.Option(help="File to write a sheet to, with the true images below the generated ones.")
    ] = None,
) -> None:
    """Measure the quality of a base: how often the true image nearest to a generated one is the right one."""
    from bwlab_emoji.base_quality import measure, retrieval_table

    report = measure(base, _work_folder(work), cfg=cfg, count=count, seed=seed, sheet=sheet)
    stdout_console().print(retrieval_table(report))


@app.command("benchmark")
def benchmark_command(
    out: Annotated[Path, typer.Option(help="Folder to write the images and the manifest into.")],
    work: WorkOption = None,
) -> None:
    """Draw the images of the identity x style benchmark again from the emoji packages of npm."""
    from bwlab_emoji.benchmark_art import write_benchmark

    write_benchmark(_work_folder(work), out)
    echo(f"The benchmark is in {out}.")


@app.command("measure-benchmark")
def measure_benchmark_command(
    work: WorkOption = None,
    style: Annotated[list[str] | None, typer.Option(help="Measure only this style. Can be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write the numbers to, as JSON.", metavar="FILE")] = None,
) -> None:
    """Measure how well images in each style that the base does not know can be scored, by identity and by style."""
    from bwlab.tables import print_table
    from bwlab_emoji.benchmark_quality import gate_table, measure_benchmark, write_gates

    console = stderr_console()
    gates = measure_benchmark(_work_folder(work), style, lambda name: console.print(f"measuring {name}"))
    if out is not None:
        write_gates(gates, out)
    print_table(stdout_console(), gate_table(gates))


@app.command("scorer")
def scorer_command(
    out: Annotated[Path, typer.Option(help="open_clip folder to write.")] = Path("emoji_scorer"),
    work: WorkOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 3_300,
    seed: Annotated[int, typer.Option(help="Seed for every random choice.")] = 0,
) -> None:
    """Train the scorer of identities and styles, a small open_clip model, from the last checkpoint if there is one."""
    from bwlab_emoji.companions import CompanionConfig, build_scorer

    console = stderr_console()
    build_scorer(CompanionConfig(out, _work_folder(work), steps, seed), console)
    console.print(f"The scorer is in {out}; open_clip loads it as local-dir:{out}.", soft_wrap=True)


@app.command("measure-scorer")
def measure_scorer_command(
    folder: Annotated[Path, typer.Argument(help="open_clip folder, as bwlab base scorer writes it.")],
    work: WorkOption = None,
) -> None:
    """Measure how well a scorer knows identities and styles that it was not trained on, beside controls."""
    from bwlab_emoji.scoring.quality import measure_scorer, scorer_table, text_table

    images, texts = measure_scorer(folder, _work_folder(work))
    console = stdout_console()
    console.print(scorer_table(images))
    console.print(text_table(texts))


@app.command("controlnet")
def controlnet_command(
    out: Annotated[Path, typer.Option(help="Diffusers folder to write.")] = Path("emoji_controlnet"),
    base: Annotated[str, typer.Option(help="Base model with a UNet: emoji or a pipeline folder.")] = "emoji",
    work: WorkOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 2_500,
    seed: Annotated[int, typer.Option(help="Seed for every random choice.")] = 0,
) -> None:
    """Train the embedded base's ControlNet on edges of emoji art, from the last checkpoint if there is one."""
    from bwlab_emoji.companions import CompanionConfig, build_controlnet

    console = stderr_console()
    build_controlnet(CompanionConfig(out, _work_folder(work), steps, seed), base, console)
    console.print(f"The ControlNet is in {out}.", soft_wrap=True)
