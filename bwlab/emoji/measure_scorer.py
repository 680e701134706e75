"""How well the scorer knows identities and styles it has not seen, beside controls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from bwlab.emoji.art import ICON_SETS, on_background
from bwlab.emoji.build import Art, load_art
from bwlab.emoji.companions import seen_names
from bwlab.emoji.world import HELD_OUT

# Sets that draw the same outlines: one vendor in three ways, one set and its monochrome.
SHARED_OUTLINES = ({"flat", "glossy", "ink"}, {"emojione", "monotone"})
CANDIDATES = 300
STYLE_REFERENCES = 30


@dataclass(frozen=True)
class ScorerReport:
    """Shares in 0..1, higher is better.

    Attributes:
        identity: a held-out identity's drawing in one style is nearest to the same identity's in another style, among
            300 identities; the mean over all pairs of styles that do not share outlines.
        style: a held-out identity's drawing is nearest to the mean of 30 other drawings in its style, among 9 styles.
    """

    identity: float
    style: float


def style_names() -> tuple[str, ...]:
    """Return every style word."""
    return tuple(icons.style for icons in ICON_SETS)


def gallery(art: Art) -> npt.NDArray[np.uint8]:
    """Return ``(300, styles, 64, 64, 3)``: the held-out identities first, then others drawn at random."""
    others = np.random.default_rng(0).permutation(seen_names(art))[: CANDIDATES - len(HELD_OUT)]
    return on_background(art.of([*HELD_OUT, *(str(name) for name in others)], style_names()))


def report_of(features: Tensor) -> ScorerReport:
    """Return the report of features ``(300, styles, width)``, of which the first 42 are held-out identities."""
    count, styles = len(HELD_OUT), style_names()
    unit = functional.normalize(features, dim=-1)
    right = []
    for a, first in enumerate(styles):
        for b, second in enumerate(styles):
            if a != b and not any({first, second} <= shared for shared in SHARED_OUTLINES):
                nearest = (unit[:count, a] @ unit[:, b].T).argmax(1)
                right.append(float((nearest == torch.arange(count)).float().mean()))
    means = functional.normalize(unit[count : count + STYLE_REFERENCES].mean(0), dim=-1)
    told = (unit[:count] @ means.T).argmax(-1)
    style = float((told == torch.arange(len(styles))).float().mean())
    return ScorerReport(float(np.mean(right)), style)


def small_pictures(pictures: npt.NDArray[np.uint8]) -> Tensor:
    """Return the control's features: 16 x 16 pixels less their mean over the identities, ``(names, styles, 768)``."""
    names, styles = pictures.shape[:2]
    small = pictures.reshape(names, styles, 16, 4, 16, 4, 3).mean((3, 5)).reshape(names, styles, -1)
    return torch.from_numpy(small - small.mean(0)).float()


@torch.no_grad()
def measure_scorer(folder: Path, work: Path) -> dict[str, ScorerReport]:
    """Return the scorer's report and the controls', by row name."""
    from open_clip import create_model

    pictures = gallery(load_art(work))
    model = create_model(f"local-dir:{folder}").eval()
    flat = torch.from_numpy(pictures.reshape(-1, 64, 64, 3)).permute(0, 3, 1, 2).float() / 127.5 - 1
    embeddings = torch.cat([model.encode_image(chunk) for chunk in flat.split(256)])
    features = embeddings.view(*pictures.shape[:2], -1)
    styles = len(style_names())
    return {
        "the scorer": report_of(features),
        "the scorer, less each style's mean": report_of(features - features.mean(0)),
        "16 x 16 pixels": report_of(small_pictures(pictures)),
        "chance": ScorerReport(1 / CANDIDATES, 1 / styles),
    }


def scorer_table(report: dict[str, ScorerReport]) -> Table:
    """Return the report as a table: shares in percent."""
    table = Table(title=f"Held-out identities: same one in another style among {CANDIDATES}; style among 9")
    table.add_column("features")
    for column in ("identity %", "style %"):
        table.add_column(column, justify="right")
    for name, row in report.items():
        table.add_row(name, f"{100 * row.identity:.1f}", f"{100 * row.style:.1f}")
    return table
