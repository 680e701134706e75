"""What is trained beside the embedded base: a scorer of its world and a ControlNet for its edges."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from bwlab.emoji.art import Rgba
from bwlab.emoji.build import Art, load_art, styles_with_role
from bwlab.emoji.controlnet import ControlTraining, edge_pool, save_controlnet
from bwlab.emoji.progress import StageLog
from bwlab.emoji.scorer import ScorerData, ScorerTraining, save_scorer, scorer_tokenizer
from bwlab.emoji.world import HELD_OUT, caption
from bwlab.pipelines import load_base


@dataclass(frozen=True)
class CompanionConfig:
    """What to train and where.

    Attributes:
        out: the folder to write.
        work: downloads, caches and checkpoints; keep it to continue a training.
        steps: optimiser steps.
        seed: of every random choice.
    """

    out: Path
    work: Path
    steps: int
    seed: int = 0


def seen_names(art: Art) -> list[str]:
    """Return every identity but the held-out ones, of the base's world or not."""
    return [name for name in art.names if name not in HELD_OUT]


def scorer_data(art: Art) -> ScorerData:
    """Return every shippable drawing of the seen identities.

    Held-out styles are among them, as a scorer has to tell them apart; held-out identities are in no style.
    """
    styles = styles_with_role("train", "held-out")
    names = seen_names(art)
    every_word = tuple(name.replace("-", " ") for name in art.names)
    every_style = styles_with_role("train", "held-out", "benchmark-only")
    return ScorerData(
        torch.from_numpy(np.ascontiguousarray(art.of(names, styles).transpose(0, 1, 4, 2, 3))),
        tuple(name.replace("-", " ") for name in names),
        styles,
        scorer_tokenizer(every_word, every_style),
    )


def build_scorer(config: CompanionConfig, console: Console) -> Path:
    """Train the scorer, from its last checkpoint, and write it; return its folder."""
    config.work.mkdir(parents=True, exist_ok=True)
    data = scorer_data(load_art(config.work))
    training = ScorerTraining(data, config.work, config.steps, config.seed)
    with StageLog("scorer", config.work / "log.jsonl", console) as log:
        model = training.run(log)
    save_scorer(model, data.tokenizer, config.out)
    return config.out


def build_controlnet(config: CompanionConfig, base: str, console: Console) -> Path:
    """Train the ControlNet of the base, from its last checkpoint, and write it; return its folder."""
    config.work.mkdir(parents=True, exist_ok=True)
    art, pipe = load_art(config.work), load_base(base)
    names, styles = seen_names(art), styles_with_role("train")
    drawings: Rgba = art.of(names, styles).reshape(-1, 64, 64, 4)
    captions = [caption(style, name) for name in names for style in styles]
    pool = edge_pool(pipe, drawings, captions, torch.Generator().manual_seed(config.seed))
    training = ControlTraining(pipe, pool, config.work, config.steps, seed=config.seed)
    with StageLog("controlnet", config.work / "log.jsonl", console) as log:
        net = training.run(log)
    save_controlnet(net, config.out)
    return config.out
