"""The embedded base's quality bar: does a caption give the right emoji in the right style?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from bwlab.base.load import load_base
from bwlab.base.open_clip import LOCAL, load_open_clip
from bwlab_emoji.art import ICON_SETS, Art, load_art, on_background, seen_names, styles_with_role
from bwlab_emoji.build import paint, sample_training_captions
from bwlab_emoji.scorer import part
from bwlab_emoji.world import HELD_OUT, caption, world_names

Floats = npt.NDArray[np.float32]
Pictures = npt.NDArray[np.uint8]

SHIFTS = (-2, 0, 2)


@dataclass(frozen=True)
class Retrieval:
    """How often the nearest true pictures are the right ones, each in 0..1, higher is better."""

    count: int
    style: float
    identity: float
    identity_top5: float

    def as_dict(self) -> dict[str, float]:
        """Return the values by name."""
        return asdict(self)


Report = dict[str, Retrieval]

# Sets that draw the same outlines: one vendor in three ways, one set and its monochrome.
SHARED_OUTLINES = ({"flat", "glossy", "ink"}, {"emojione", "monotone"})
CANDIDATES = 300
STYLE_REFERENCES = 30


@dataclass(frozen=True)
class Candidates:
    """True pictures to be nearest to.

    Attributes:
        pictures: `(identities, styles, 64, 64, 3)` uint8, over white.
        identities: names along the first axis.
        styles: style words along the second axis.

    """

    pictures: Pictures
    identities: tuple[str, ...]
    styles: tuple[str, ...]


def features(pictures: Pictures) -> Floats:
    """Return `(n, 9216)`: colours in 0..1 at 32 x 32 and twice their differences to the right and below.

    Euclidean distance of these is the quality bar's feature distance: colours tell style and identity, the
    differences give outlines their weight.
    """
    small = pictures.reshape(-1, 32, 2, 32, 2, 3).astype(np.float32).mean(axis=(2, 4)) / 255
    right = 2 * np.diff(small, axis=2, append=small[:, :, -1:])
    below = 2 * np.diff(small, axis=1, append=small[:, -1:])
    parts = [part.reshape(len(pictures), -1) for part in (small, right, below)]
    return np.concatenate(parts, axis=1)


def distances(pictures: Pictures, candidates: Candidates) -> Floats:
    """Return `(n, identities, styles)`: feature distance to each true picture, least over shifts of up to 2 px."""
    queries = features(pictures)
    flat = candidates.pictures.reshape(-1, *candidates.pictures.shape[2:])
    best = np.full((len(queries), len(flat)), np.inf, dtype=np.float32)
    own = (queries**2).sum(axis=1)[:, None]
    for down in SHIFTS:
        for right in SHIFTS:
            moved = features(np.roll(flat, (down, right), axis=(1, 2)))
            squared = own + (moved**2).sum(axis=1)[None] - 2 * queries @ moved.T
            np.minimum(best, squared, out=best)
    shape = (len(queries), len(candidates.identities), len(candidates.styles))
    return np.sqrt(np.maximum(best, 0)).reshape(shape)


def retrieval(distance: Floats, candidates: Candidates, truths: Sequence[tuple[str, str]], top: int = 5) -> Retrieval:
    """Return how often distances `(n, identities, styles)` point at the true `(identity, style)`.

    Style is right when the nearest picture has it; identity when one of the `top` identities whose nearest
    picture is closest is the true one.
    """
    nearest_style = distance.min(axis=1).argmin(axis=1)
    ranked = distance.min(axis=2).argsort(axis=1)
    identity = np.array([candidates.identities.index(name) for name, _ in truths])
    style = np.array([candidates.styles.index(word) for _, word in truths])
    return Retrieval(
        count=len(truths),
        style=float((nearest_style == style).mean()),
        identity=float((ranked[:, 0] == identity).mean()),
        identity_top5=float((ranked[:, :top] == identity[:, None]).any(axis=1).mean()),
    )


def other_set_control(candidates: Candidates, style: str, identities: Sequence[str]) -> Retrieval:
    """Return the retrieval of one set's true drawings among all other sets' drawings."""
    column = candidates.styles.index(style)
    rows = [candidates.identities.index(name) for name in identities]
    distance = distances(candidates.pictures[rows, column], candidates)
    distance[:, :, column] = np.inf
    return retrieval(distance, candidates, [(name, style) for name in identities])


def measure(
    base: str, work: Path, cfg: float = 4.0, count: int = 64, seed: int = 0, sheet: Path | None = None
) -> Report:
    """Return the retrieval of painted captions and of the controls, by row name.

    Controls: chance; the true pictures through the autoencoder; true pictures of held-out identities through it;
    and true drawings looked up among all *other* sets (how far the distance itself recognises an identity).
    """
    art = load_art(work)
    candidates = world_candidates(art)
    pipeline = load_base(base)
    truths = sample_training_captions(art, count, seed)
    painted = paint(pipeline, [caption(style, name) for name, style in truths], cfg, seed)
    true = _true_pictures(art, truths)
    unseen = [(name, style) for name in HELD_OUT for style in styles_with_role("train")][:: max(1, 210 // count)]
    if sheet is not None:
        _write_sheet(painted, true, sheet)
    report = {
        f"painted, cfg {cfg:g}": retrieval(distances(painted, candidates), candidates, truths),
        "chance": _chance(candidates, count),
        "true pictures through the autoencoder": _through(pipeline.vae, true, truths, candidates),
        "unseen identities through the autoencoder": _through(
            pipeline.vae, _true_pictures(art, unseen), unseen, candidates
        ),
    }
    for style in styles_with_role("train"):
        report[f"{style}'s true pictures among the other sets"] = other_set_control(
            candidates, style, candidates.identities
        )
    return report


def _true_pictures(art: Art, truths: Sequence[tuple[str, str]]) -> Pictures:
    return on_background(np.stack([art.of([name], [style])[0, 0] for name, style in truths]))


def _chance(candidates: Candidates, count: int) -> Retrieval:
    identities, styles = len(candidates.identities), len(candidates.styles)
    return Retrieval(count, 1 / styles, 1 / identities, 5 / identities)


@torch.no_grad()
def _through(
    vae: AutoencoderKL, pictures: Pictures, truths: Sequence[tuple[str, str]], candidates: Candidates
) -> Retrieval:
    scaled = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    decoded = vae.decode(vae.encode(scaled).latent_dist.mean).sample.clamp(-1, 1)
    rebuilt = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return retrieval(distances(rebuilt, candidates), candidates, truths)


def _write_sheet(painted: Pictures, true: Pictures, path: Path, columns: int = 16) -> None:
    from PIL import Image

    rows = []
    for start in range(0, len(painted) - len(painted) % columns, columns):
        chosen = slice(start, start + columns)
        rows += [np.concatenate(list(painted[chosen]), axis=1), np.concatenate(list(true[chosen]), axis=1)]
    Image.fromarray(np.concatenate(rows)).save(path)


def retrieval_table(report: Report) -> Table:
    """Return the report as a table: shares in percent."""
    table = Table(title="Nearest true picture, all identities x styles as candidates")
    table.add_column("pictures")
    for column in ("n", "style %", "identity %", "identity in 5 %"):
        table.add_column(column, justify="right")
    for name, row in report.items():
        shares = (row.style, row.identity, row.identity_top5)
        table.add_row(name, str(row.count), *(f"{100 * share:.1f}" for share in shares))
    return table


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


def style_names() -> tuple[str, ...]:
    """Return every style word."""
    return tuple(icons.style for icons in ICON_SETS)


def gallery_names(art: Art) -> list[str]:
    """Return 300 identities: the held-out ones first, then others drawn at random."""
    others = np.random.default_rng(0).permutation(seen_names(art))[: CANDIDATES - len(HELD_OUT)]
    return [*HELD_OUT, *(str(name) for name in others)]


def identity_share(features: Tensor, shared: Sequence[set[str]] = SHARED_OUTLINES) -> float:
    """Return `ScorerReport.identity` of features `(names, styles, width)`, the first 42 of held-out identities.

    Args:
        features: of `gallery_names`.
        shared: styles between which nothing is looked up; without any, the share is `ScorerReport.any_pair`.

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
    told = (unit[:count] @ means.T).argmax(-1)
    return float((told == torch.arange(features.shape[1])).float().mean())


def small_pictures(pictures: npt.NDArray[np.uint8]) -> Tensor:
    """Return the control's features: 16 x 16 pixels of `(names, styles, 64, 64, 3)` as `(names, styles, 768)`."""
    names, styles = pictures.shape[:2]
    return torch.from_numpy(pictures.reshape(names, styles, 16, 4, 16, 4, 3).mean((3, 5)).reshape(names, styles, -1))


@torch.no_grad()
def embedded(model: Any, pictures: npt.NDArray[np.uint8]) -> Tensor:
    """Return embeddings `(names, styles, width)` of pictures `(names, styles, 64, 64, 3)`."""
    flat = torch.from_numpy(pictures.reshape(-1, *pictures.shape[2:])).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.cat([model.encode_image(chunk) for chunk in flat.split(256)]).view(*pictures.shape[:2], -1)


def measure_scorer(folder: Path, work: Path) -> tuple[dict[str, ScorerReport], TextReport]:
    """Return the reports of pictures, the scorer's and the controls' by row name, and the report of texts."""
    art = load_art(work)
    names = gallery_names(art)
    pictures = on_background(art.of(names, style_names()))
    model, _, tokenizer = load_open_clip(f"{LOCAL}{folder}")
    found, small = embedded(model, pictures), small_pictures(pictures).float()
    rows = {
        "the scorer": picture_report(part(found, "identity"), part(found, "style")),
        "the whole embedding": picture_report(found, found),
        # Less each style's mean, a style is no longer to be seen in pixels, but an identity is seen better.
        "16 x 16 pixels": picture_report(small - small.mean(0), small - small.mean((0, 1))),
        "chance": ScorerReport(1 / CANDIDATES, 1 / CANDIDATES, 1 / len(style_names())),
    }
    return rows, text_report(model, tokenizer, found, names)


def picture_report(identity: Tensor, style: Tensor) -> ScorerReport:
    """Return the report of features `(names, styles, width)` of `gallery_names`, those of identity and of style."""
    return ScorerReport(identity_share(identity), identity_share(identity, ()), style_share(style))


@torch.no_grad()
def text_report(model: Any, tokenizer: Any, found: Tensor, names: Sequence[str]) -> TextReport:
    """Return how well texts find pictures, by embeddings `(names, styles, width)` of `gallery_names`."""
    count, styles = len(HELD_OUT), styles_with_role("train", "held-out")
    pictures = found[:, : len(styles)]
    words = model.encode_text(tokenizer([name.replace("-", " ") for name in names]))
    named = (part(pictures, "identity") @ part(words, "identity").T).argmax(-1) == torch.arange(len(names))[:, None]
    by_style = part(pictures[:count], "style") @ part(model.encode_text(tokenizer(list(styles))), "style").T
    captions = [caption(style, name) for name in names[:count] for style in styles]
    texts = functional.normalize(model.encode_text(tokenizer(captions)), dim=-1).view(count, len(styles), -1)
    whole = functional.normalize(pictures[:count], dim=-1) @ texts.mT
    own = torch.arange(len(styles))
    return TextReport(
        float((by_style.argmax(-1) == own).float().mean()),
        float(named[:count].float().mean()),
        float(named[count:].float().mean()),
        float((whole.argmax(-1) == own).float().mean()),
    )


def scorer_table(report: dict[str, ScorerReport]) -> Table:
    """Return the reports of pictures as a table: shares in percent."""
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


def world_candidates(art: Art) -> Candidates:
    """Return every picture of the world, all styles, over white."""
    names = world_names(art.names)
    styles = tuple(icons.style for icons in ICON_SETS)
    return Candidates(on_background(art.of(names, styles)), tuple(names), styles)
