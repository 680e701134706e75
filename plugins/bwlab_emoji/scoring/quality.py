"""How well the scorer knows identities and styles that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from bwlab.base.open_clip import LOCAL, load_open_clip
from bwlab_emoji.art import Art, load_art, seen_names
from bwlab_emoji.icon_sets import ICON_SETS, Pixels, on_background, styles_with_role
from bwlab_emoji.scoring.scorer import part
from bwlab_emoji.world import HELD_OUT, caption

SHARED_OUTLINES = ({"flat", "glossy", "ink"}, {"emojione", "monotone"})
"""Sets that draw the same outlines: one vendor in three ways, one set and its monochrome."""
CANDIDATES = 300
STYLE_REFERENCES = 30


@dataclass(frozen=True)
class ScorerReport:
    """Shares in 0..1, higher is better.

    Attributes:
        identity: a held-out identity's drawing in one style is nearest to the same identity's in another style, among
            300 identities; the mean over all pairs of styles that do not share outlines.
        any_pair: the same, the mean over all pairs of styles.
        style: a held-out identity's drawing is nearest to the mean of 30 other drawings in its style, among 9 styles.

    """

    identity: float
    any_pair: float
    style: float


@dataclass(frozen=True)
class TextReport:
    """How often a drawing's own text is the nearest, 0..1.

    Attributes:
        style: of a held-out identity: its style's word, among 8.
        unknown_name: of a held-out identity: its name, which the scorer was not taught, among the 300 names.
        known_name: of a seen identity: its name, among the 300 names.
        caption: of a held-out identity: the whole caption, among its captions in 8 styles.

    """

    style: float
    unknown_name: float
    known_name: float
    caption: float


def measure_scorer(folder: Path, work: Path) -> tuple[dict[str, ScorerReport], TextReport]:
    """Return the reports of images, the scorer's and the controls' by row name, and the report of texts."""
    art = load_art(work)
    names = gallery_names(art)
    images = on_background(art.of(names, style_names()))
    model, _, tokenizer = load_open_clip(f"{LOCAL}{folder}")
    embeddings, small = embedded(model, images), small_images(images).float()
    rows = {
        "the scorer": image_report(part(embeddings, "identity"), part(embeddings, "style")),
        "the whole embedding": image_report(embeddings, embeddings),
        # Less each style's mean, a style is no longer to be seen in pixels, but an identity is seen better.
        "16 x 16 pixels": image_report(small - small.mean(0), small - small.mean((0, 1))),
        "chance": ScorerReport(1 / CANDIDATES, 1 / CANDIDATES, 1 / len(style_names())),
    }
    return rows, text_report(model, tokenizer, embeddings, names)


def style_names() -> tuple[str, ...]:
    """Return every style word."""
    return tuple(icons.style for icons in ICON_SETS)


def gallery_names(art: Art) -> list[str]:
    """Return 300 identities: the held-out ones first, then others drawn at random."""
    others = np.random.default_rng(0).permutation(seen_names(art))[: CANDIDATES - len(HELD_OUT)]
    return [*HELD_OUT, *(str(name) for name in others)]


@torch.no_grad()
def embedded(model: Any, images: Pixels) -> Tensor:
    """Return embeddings `(names, styles, width)` of images `(names, styles, 64, 64, 3)`."""
    flat = torch.from_numpy(images.reshape(-1, *images.shape[2:])).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.cat([model.encode_image(chunk) for chunk in flat.split(256)]).view(*images.shape[:2], -1)


def small_images(images: Pixels) -> Tensor:
    """Return the control's features: 16 x 16 pixels of `(names, styles, 64, 64, 3)` as `(names, styles, 768)`."""
    names, styles = images.shape[:2]
    return torch.from_numpy(images.reshape(names, styles, 16, 4, 16, 4, 3).mean((3, 5)).reshape(names, styles, -1))


def image_report(identity: Tensor, style: Tensor) -> ScorerReport:
    """Return the report of features `(names, styles, width)` of `gallery_names`, those of identity and of style."""
    return ScorerReport(identity_share(identity), identity_share(identity, ()), style_share(style))


def identity_share(features: Tensor, shared: Sequence[set[str]] = SHARED_OUTLINES) -> float:
    """Return `ScorerReport.identity` of features `(names, styles, width)`, the first 42 of held-out identities.

    Args:
        features: of `gallery_names`.
        shared: pairs of styles that are left out; without any, the share is `ScorerReport.any_pair`.

    """
    count, styles = len(HELD_OUT), style_names()
    unit = functional.normalize(features, dim=-1)
    right = []
    for a, first in enumerate(styles):
        for b, second in enumerate(styles):
            if a != b and not any({first, second} <= together for together in shared):
                nearest = (unit[:count, a] @ unit[:, b].T).argmax(1)
                right.append(float((nearest == torch.arange(count)).float().mean()))
    return float(np.mean(right))


def style_share(features: Tensor) -> float:
    """Return `ScorerReport.style` of features `(names, styles, width)`, the first 42 of held-out identities."""
    count = len(HELD_OUT)
    unit = functional.normalize(features, dim=-1)
    means = functional.normalize(unit[count : count + STYLE_REFERENCES].mean(0), dim=-1)
    predicted = (unit[:count] @ means.T).argmax(-1)
    return float((predicted == torch.arange(features.shape[1])).float().mean())


@torch.no_grad()
def text_report(model: Any, tokenizer: Any, embeddings: Tensor, names: Sequence[str]) -> TextReport:
    """Return how well texts find images, by embeddings `(names, styles, width)` of `gallery_names`."""
    count, styles = len(HELD_OUT), styles_with_role("train", "held-out")
    images = embeddings[:, : len(styles)]
    words = model.encode_text(tokenizer([name.replace("-", " ") for name in names]))
    named = (part(images, "identity") @ part(words, "identity").T).argmax(-1) == torch.arange(len(names))[:, None]
    by_style = part(images[:count], "style") @ part(model.encode_text(tokenizer(list(styles))), "style").T
    captions = [caption(style, name) for name in names[:count] for style in styles]
    texts = functional.normalize(model.encode_text(tokenizer(captions)), dim=-1).view(count, len(styles), -1)
    whole = functional.normalize(images[:count], dim=-1) @ texts.mT
    own = torch.arange(len(styles))
    return TextReport(
        float((by_style.argmax(-1) == own).float().mean()),
        float(named[:count].float().mean()),
        float(named[count:].float().mean()),
        float((whole.argmax(-1) == own).float().mean()),
    )


def scorer_table(report: dict[str, ScorerReport]) -> Table:
    """Return the reports of images as a table: shares in percent."""
    table = Table(title=f"Held-out identities: same one in another style among {CANDIDATES}; style among 9")
    table.caption = "identity: between styles that do not share outlines; any pair: between all styles"
    table.add_column("features")
    for column in ("identity %", "any pair %", "style %"):
        table.add_column(column, justify="right")
    for name, row in report.items():
        table.add_row(name, *(f"{100 * share:.1f}" for share in (row.identity, row.any_pair, row.style)))
    return table


def text_table(report: TextReport) -> Table:
    """Return the report of texts as a table: shares in percent, beside chance."""
    table = Table(title="A drawing's own text is the nearest")
    table.add_column("drawings of")
    table.add_column("texts")
    for column in ("right %", "chance %"):
        table.add_column(column, justify="right")
    for drawings, texts, share, chance in (
        ("held-out identities", "8 style words", report.style, 1 / 8),
        ("held-out identities", "their captions in 8 styles", report.caption, 1 / 8),
        ("seen identities", f"{CANDIDATES} names", report.known_name, 1 / CANDIDATES),
        ("held-out identities", f"{CANDIDATES} names, theirs never taught", report.unknown_name, 1 / CANDIDATES),
    ):
        table.add_row(drawings, texts, f"{100 * share:.1f}", f"{100 * chance:.1f}")
    return table
