"""`bwlab generate`: generate images from prompts, a base model and adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bwlab.base.device import AUTO, Precision
from bwlab.fusion.types import SUM
from bwlab.generation.controlnet import EDGE_MAPS
from bwlab.generation.job import WEIGHTINGS
from bwlab.generation.samplers import AUTO as USUAL_SAMPLER
from bwlab.generation.samplers import SAMPLERS
from bwlab.terminal import echo

ADAPTER_HELP = (
    "Adapter file (repeatable; by default they add up), with its scale or block spec after a colon, "
    'such as fox.safetensors:0.8 or "fox.safetensors:*=0, upper=1".'
)
SCALE_HELP = (
    'Scale of the adapter at the same position: a number or a block spec such as "*=0, upper=1"; '
    "blocks not named keep 1. [default: 1]"
)
SCHEDULE_HELP = (
    'Schedule of the adapter at the same position, such as "0-0.4:1, 0.4-1:0.3": fractions of the sampling and '
    "factors of the scale; 0 elsewhere. [default: 1]"
)
FUSION_HELP = (
    "How several adapters act together on the UNet: sum, guided, switch, composite, k-lora, est-lora, kl, ties, dare, "
    "b-lora, or one of a plugin, with its options after a colon, such as switch:steps=3."
)
XY_HELP = (
    'Contact sheet over the values of two axes, such as "scale: 0, 0.5, 1" "blocks: upper=1 | lower=1"; '
    'the second axis may be "".'
)
MOST_PIXELS = 16384


def fusion_names() -> list[str]:
    """Return the names of all fusion methods, for completion in a shell."""
    from bwlab.plugins.manager import installed_manager

    return sorted(installed_manager().fusions())


def command(
    prompt: Annotated[list[str], typer.Option(help="Prompt (repeatable).", metavar="TEXT")],
    base: Annotated[
        str, typer.Option(help="Base model: emoji, emoji-dit, a diffusers folder, a checkpoint or a hub id.")
    ] = "emoji",
    adapter: Annotated[list[str] | None, typer.Option(help=ADAPTER_HELP, metavar="FILE[:SPEC]")] = None,
    scale: Annotated[list[str] | None, typer.Option(help=SCALE_HELP, metavar="SPEC")] = None,
    schedule: Annotated[list[str] | None, typer.Option(help=SCHEDULE_HELP, metavar="SPANS")] = None,
    fusion: Annotated[
        str, typer.Option(help=FUSION_HELP, metavar="NAME[:KEY=VALUE,...]", autocompletion=fusion_names)
    ] = SUM,
    lora_dir: Annotated[
        Path | None, typer.Option(help="Folder of the adapters that prompts name as <lora:name:0.8>.", metavar="DIR")
    ] = None,
    embedding: Annotated[
        list[str] | None, typer.Option(help="Textual-inversion file (repeatable).", metavar="FILE[=WORD]")
    ] = None,
    negative: Annotated[str, typer.Option(help="Negative prompt.", metavar="TEXT")] = "",
    image: Annotated[
        Path | None, typer.Option(help="Init image to start from, in place of pure noise.", metavar="FILE")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Mask image: white where the init image is generated anew.", metavar="FILE")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="Share of the sampling that is done from the init image, 0 to 1. [default: 0.75]"),
    ] = None,
    controlnet: Annotated[
        str | None, typer.Option(help="ControlNet: emoji, or a diffusers folder.", metavar="NAME")
    ] = None,
    control_image: Annotated[
        Path | None, typer.Option(help="Image whose lines the ControlNet follows.", metavar="FILE")
    ] = None,
    control: Annotated[
        str, typer.Option(help=f"Method that finds the lines of the control image: {', '.join(EDGE_MAPS)}.")
    ] = "canny",
    control_scale: Annotated[float, typer.Option(help="Scale of the ControlNet.")] = 1.0,
    control_end: Annotated[
        float, typer.Option(help="Fraction of the sampling after which the ControlNet is off.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the first image of each prompt.")] = 0,
    count: Annotated[int, typer.Option(help="Number of images of each prompt, with seeds counting up.")] = 1,
    steps: Annotated[int, typer.Option(help="Number of sampling steps.")] = 25,
    cfg: Annotated[float, typer.Option(help="Guidance scale; 1 or less turns guidance off.")] = 7.0,
    sampler: Annotated[str, typer.Option(help=f"Sampler: {', '.join((USUAL_SAMPLER, *SAMPLERS))}.")] = USUAL_SAMPLER,
    width: Annotated[
        int | None,
        typer.Option(
            help="Width of the images in pixels. [default: that of the base's training images]", min=8, max=MOST_PIXELS
        ),
    ] = None,
    height: Annotated[
        int | None,
        typer.Option(
            help="Height of the images in pixels. [default: that of the base's training images]",
            min=8,
            max=MOST_PIXELS,
        ),
    ] = None,
    weighting: Annotated[
        str | None, typer.Option(help=f"Syntax of weights in prompts: {' or '.join(WEIGHTINGS)}.")
    ] = None,
    clip_skip: Annotated[
        int,
        typer.Option(
            help="Layer of the text encoder that is read, counted from the last one, which is 1.", min=1, max=12
        ),
    ] = 1,
    xy: Annotated[tuple[str, str] | None, typer.Option(help=XY_HELP, metavar="COLUMNS ROWS")] = None,
    batch_size: Annotated[
        int, typer.Option(help="Number of images that are sampled at once, at most.", min=1, max=1000)
    ] = 8,
    device: Annotated[str, typer.Option(help="Device: auto, cpu, cuda, cuda:1, mps ...")] = AUTO,
    precision: Annotated[
        Precision,
        typer.Option(
            help=f"Precision of the base's weights: {', '.join(Precision)}; half the bits take half the memory.",
            metavar="NAME",
        ),
    ] = Precision.FP32,
    out: Annotated[Path, typer.Option(help="Folder that the images are written to.", metavar="DIR")] = Path("images"),
    grid: Annotated[bool, typer.Option("--grid", help="Also write a contact sheet of all images.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Number files from 0 and replace them, instead of counting on.")
    ] = False,
) -> None:
    """Generate images with a base model and any number of adapters.

    Scales and schedules are paired with adapters in order. Every PNG file carries its recipe.
    """
    from bwlab.generation.adapter_option import adapters_with_scales
    from bwlab.generation.checks import checked_job
    from bwlab.generation.job import GenerateJob
    from bwlab.plugins.manager import installed_manager
    from bwlab.terminal import stderr_console

    adapters, scales = adapters_with_scales(adapter or (), scale or ())
    job = GenerateJob(
        prompts=tuple(prompt),
        base=base,
        adapters=adapters,
        scales=scales,
        schedules=tuple(schedule or ()),
        fusion=fusion,
        lora_dir=lora_dir,
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
        clip_skip=clip_skip,
        seed=seed,
        count=count,
        steps=steps,
        cfg=cfg,
        sampler=sampler,
        width=width,
        height=height,
        xy=tuple(axis for axis in xy or () if axis),
        device=device,
        precision=precision,
        batch_size=batch_size,
        out=out,
        grid=grid,
        overwrite=overwrite,
    )
    manager = installed_manager()
    checked_job(job, manager)  # before torch is imported
    from bwlab.generation.run import run_job

    for path in run_job(job, manager, stderr_console()):
        echo(path, exact=True)
