"""``bwlab train``: an adapter into chosen blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bwlab.errors import BwlabError
from bwlab.training.run_folder import Existing

Text = str | None


def command(
    config: Annotated[Path | None, typer.Argument(help="TOML file with settings.", show_default=False)] = None,
    base: Annotated[Text, typer.Option(help="Base model: emoji, or a diffusers folder. [default: emoji]")] = None,
    data: Annotated[Text, typer.Option(help="Folder of images with .txt captions.", metavar="DIR")] = None,
    out: Annotated[Text, typer.Option(help="Folder of the run.", metavar="DIR")] = None,
    adapter: Annotated[Text, typer.Option(help="Adapter type: lora, locon, ... [default: locon]")] = None,
    blocks: Annotated[
        Text, typer.Option(help='Rank of each block, such as "upper=16, mid=4". [default: all=16]', metavar="SPEC")
    ] = None,
    alpha: Annotated[Text, typer.Option(help="Scale is alpha / rank. [default: the rank]", metavar="A")] = None,
    steps: Annotated[Text, typer.Option(help="Optimiser steps. [default: 1000]", metavar="N")] = None,
    batch_size: Annotated[Text, typer.Option(help="Pictures a step. [default: 4]", metavar="N")] = None,
    lr: Annotated[Text, typer.Option(help="Learning rate. [default: 5e-4]", metavar="F")] = None,
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

    Settings come from a preset, the TOML file, flags and --set; later ones win. The run's folder receives
    adapter.safetensors, config.toml, log.jsonl, previews/ and checkpoints/.
    """
    from rich.console import Console

    from bwlab.plugins import build_manager
    from bwlab.training import train
    from bwlab.training.sources import read_config

    existing = existing_run(resume, overwrite)
    if resume and config is None and out is not None and (Path(out) / "config.toml").is_file():
        config = Path(out) / "config.toml"
    flags = {
        "base": ("--base", base),
        "data.folder": ("--data", data),
        "out": ("--out", out),
        "adapter.type": ("--adapter", adapter),
        "adapter.blocks": ("--blocks", blocks),
        "adapter.alpha": ("--alpha", alpha),
        "training.steps": ("--steps", steps),
        "training.batch_size": ("--batch-size", batch_size),
        "training.lr": ("--lr", lr),
        "training.seed": ("--seed", seed),
    }
    given = {key: (flag, text) for key, (flag, text) in flags.items() if text is not None}
    console = Console(stderr=True)
    path = train(read_config(config, preset, given, settings or ()), build_manager(), console, existing)
    typer.echo(path)


def existing_run(resume: bool, overwrite: bool) -> Existing:
    """Return what to do with a run that is already there; BwlabError if both flags are given."""
    if resume and overwrite:
        raise BwlabError("bwlab train", "both --resume and --overwrite are given", "Give one of them")
    if resume:
        return Existing.RESUME
    return Existing.OVERWRITE if overwrite else Existing.REFUSE
