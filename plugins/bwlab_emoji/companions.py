"""Builds the companions of the embedded base: the scorer of identities and styles, and the ControlNet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from rich.console import Console

from bwlab.base.load import load_base
from bwlab.base.models import denoiser_of
from bwlab.errors import BwlabError
from bwlab_emoji.art import Art, MoreArt, load_art, load_more_art, seen_names
from bwlab_emoji.controlnet import ControlTraining, edge_pool, save_controlnet
from bwlab_emoji.icon_sets import styles_with_role
from bwlab_emoji.scoring.data import ScorerData
from bwlab_emoji.scoring.scorer import ScorerTraining, save_scorer, scorer_tokenizer
from bwlab_emoji.training import StageLog
from bwlab_emoji.world import caption


@dataclass(frozen=True)
class CompanionConfig:
    """Settings of a training of a companion.

    Attributes:
        out: the folder to write.
        work: the folder of downloads, caches and checkpoints; keep it to continue a training.
        steps: optimiser steps.
        seed: seed for every random choice.

    """

    out: Path
    work: Path
    steps: int
    seed: int = 0


def build_scorer(config: CompanionConfig, console: Console) -> Path:
    """Train the scorer, from its last checkpoint, and write it; return its folder."""
    config.work.mkdir(parents=True, exist_ok=True)
    art = load_art(config.work)
    data = scorer_data(art, load_more_art(config.work, art))
    training = ScorerTraining(data, config.work, config.steps, config.seed)
    with StageLog("scorer", config.work / "log.jsonl", console) as log:
        model = training.run(log)
    save_scorer(model, data.tokenizer, config.out)
    return config.out


def scorer_data(art: Art, more: MoreArt) -> ScorerData:
    """Return every shippable drawing of the seen identities, and more identities.

    Held-out styles are among them, since a scorer has to distinguish them. Held-out identities are left out in every
    style, and so are their words.
    """
    styles = styles_with_role("train", "held-out")
    names = seen_names(art)
    words = tuple(name.replace("-", " ") for name in (*names, *more.names))
    pixels = np.concatenate([art.of(names, styles), more.pixels])
    return ScorerData(
        torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 1, 4, 2, 3))),
        torch.cat([torch.ones(len(names), len(styles), dtype=torch.bool), torch.from_numpy(more.drawn)]),
        words,
        styles,
        scorer_tokenizer(words, styles),
    )


def build_controlnet(config: CompanionConfig, base: str, console: Console) -> Path:
    """Train the ControlNet of the base, from its last checkpoint, and write it; return its folder."""
    config.work.mkdir(parents=True, exist_ok=True)
    pipe = load_base(base)
    if not isinstance(denoiser_of(pipe), UNet2DConditionModel):
        raise BwlabError(f"--base {base}", "it has no UNet, whose ControlNet this is", "Give --base emoji")
    art = load_art(config.work)
    names, styles = seen_names(art), styles_with_role("train")
    drawings = art.of(names, styles).reshape(-1, 64, 64, 4)
    captions = [caption(style, name) for name in names for style in styles]
    pool = edge_pool(pipe, drawings, captions, torch.Generator().manual_seed(config.seed))
    training = ControlTraining(pipe, pool, config.work, config.steps, seed=config.seed)
    with StageLog("controlnet", config.work / "log.jsonl", console) as log:
        net = training.run(log)
    save_controlnet(net, config.out)
    return config.out
