"""`bwlab train`: an adapter into chosen blocks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from bwlab.training.run_folder import Existing


Text = str | None

# What each flag sets; all else is said with --set.
KEYS = {
    "base": "base",
    "data": "data.folder",
    "dataset": "data.dataset",
    "out": "out",
    "adapter": "adapter.type",
    "blocks": "adapter.blocks",
    "alpha": "adapter.alpha",
    "initial": "adapter.initial",
    "steps": "training.steps",
    "batch_size": "training.batch_size",
    "accumulation": "training.accumulation",
    "optimizer": "training.optimizer",
    "lr": "training.lr",
    "block_lr": "training.block_lr",
    "schedule": "training.schedule",
    "warmup": "training.warmup",
    "precision": "training.precision",
    "device": "training.device",
    "seed": "training.seed",
}


def flag_name(parameter: str) -> str:
    """Return the flag of a parameter.

    >>> flag_name("batch_size")
    '--batch-size'
    """
    return "--" + parameter.replace("_", "-")


def command(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(help="TOML file with settings.", show_default=False)] = None,
    base: Annotated[
        Text, typer.Option(help="Base model: emoji, a diffusers folder, a checkpoint or a hub id. [default: emoji]")
    ] = None,
    data: Annotated[Text, typer.Option(help="Folder of images with .txt captions.", metavar="DIR")] = None,
    dataset: Annotated[
        Text, typer.Option(help="Dataset TOML of kohya's trainer, instead of a folder.", metavar="FILE")
    ] = None,
    out: Annotated[Text, typer.Option(help="Folder of the run.", metavar="DIR")] = None,
    adapter: Annotated[Text, typer.Option(help="Adapter type: lora, locon, ... [default: locon]")] = None,
    blocks: Annotated[
        Text, typer.Option(help='Rank of each block, such as "upper=16, mid=4". [default: all=16]', metavar="SPEC")
    ] = None,
    alpha: Annotated[Text, typer.Option(help="Scale is alpha / rank. [default: the rank]", metavar="A")] = None,
    initial: Annotated[Text, typer.Option(help="Adapter file to go on from.", metavar="FILE")] = None,
    steps: Annotated[Text, typer.Option(help="Optimiser steps. [default: 1000]", metavar="N")] = None,
    batch_size: Annotated[
        Text, typer.Option(help="Pictures a step, for each process. [default: 4]", metavar="N")
    ] = None,
    accumulation: Annotated[Text, typer.Option(help="Batches that make one step. [default: 1]", metavar="N")] = None,
    optimizer: Annotated[Text, typer.Option(help="adamw, adafactor or prodigy. [default: adamw]")] = None,
    lr: Annotated[Text, typer.Option(help="Learning rate. [default: 5e-4] (prodigy: 1)", metavar="F")] = None,
    block_lr: Annotated[
        Text, typer.Option(help='Rates of single blocks, such as "upper=1e-3, te=5e-5".', metavar="SPEC")
    ] = None,
    schedule: Annotated[
        Text,
        typer.Option(help="constant, linear, cosine, cosine_restarts or polynomial. [default: constant]"),
    ] = None,
    warmup: Annotated[Text, typer.Option(help="Steps of warm-up. [default: 0]", metavar="N")] = None,
    precision: Annotated[Text, typer.Option(help="auto, fp32, bf16 or fp16. [default: auto]")] = None,
    device: Annotated[Text, typer.Option(help="auto, cpu, cuda, cuda:1, mps. [default: auto]")] = None,
    seed: Annotated[Text, typer.Option(help="Seed of everything random. [default: 0]", metavar="N")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in OUT.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in OUT.")] = False,
    preset: Annotated[Text, typer.Option(help="Named settings: paper.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, such as preview.every=100.", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Train an adapter into chosen blocks of a base model.

    Settings come from a preset, the TOML file, flags and --set; later ones win ('bwlab config init' writes all of
    them). The run's folder receives adapter.safetensors, config.toml, log.jsonl, previews/ and checkpoints/.
    """
    from rich.console import Console

    from bwlab.plugins.manager import build_manager
    from bwlab.training import train
    from bwlab.training.distributed import is_main_process, leave_processes
    from bwlab.training.settings import read_config

    existing = existing_run(resume, overwrite)
    if resume and config is None and out is not None and (Path(out) / "config.toml").is_file():
        config = Path(out) / "config.toml"
    given = {
        KEYS[name]: (flag_name(name), text)
        for name, text in context.params.items()
        if name in KEYS and text is not None
    }
    chosen = read_config(config, preset, given, settings or ())
    try:
        path = train(chosen, build_manager(), Console(stderr=True), existing)
        if is_main_process():
            typer.echo(path)
    finally:
        leave_processes()


def existing_run(resume: bool, overwrite: bool) -> Existing:
    """Return what to do with a run that is already there; BwlabError if both flags are given."""
    from bwlab.training.run_folder import Existing

    if resume and overwrite:
        raise BwlabError("bwlab train", "both --resume and --overwrite are given", "Give one of them")
    if resume:
        return Existing.RESUME
    return Existing.OVERWRITE if overwrite else Existing.REFUSE
