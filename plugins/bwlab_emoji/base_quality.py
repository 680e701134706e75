"""The embedded base's quality bar: whether a caption gives the right emoji in the right style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from rich.table import Table

from bwlab.base.load import load_base
from bwlab_emoji.art import Art, load_art
from bwlab_emoji.build import generate, sample_training_captions
from bwlab_emoji.icon_sets import ICON_SETS, Pixels, on_background, styles_with_role
from bwlab_emoji.world import HELD_OUT, caption, world_names

Floats = npt.NDArray[np.float32]

SHIFTS = (-2, 0, 2)
"""Pixels that true images are moved by, down and to the right, when the nearest is looked up."""


@dataclass(frozen=True)
class Retrieval:
    """How often the nearest true image is the right one.

    Attributes:
        count: number of images.
        style: share of images whose nearest true image has their style, 0..1.
        identity: share of images whose nearest true image is of their identity, 0..1.
        identity_top5: share of images whose identity is among the five nearest, 0..1.

    """

    count: int
    style: float
    identity: float
    identity_top5: float

    def as_dict(self) -> dict[str, float]:
        """Return the values by name."""
        return asdict(self)


Report = dict[str, Retrieval]


@dataclass(frozen=True)
class Candidates:
    """The true images among which the nearest is looked up.

    Attributes:
        images: `(identities, styles, 64, 64, 3)` uint8, over white.
        identities: names along the first axis.
        styles: style words along the second axis.

    """

    images: Pixels
    identities: tuple[str, ...]
    styles: tuple[str, ...]


def measure(
    base: str, work: Path, cfg: float = 4.0, count: int = 64, seed: int = 0, sheet: Path | None = None
) -> Report:
    """Return the retrieval of images generated for captions, and of the controls, by row name.

    Controls: chance; the true images through the autoencoder; true images of held-out identities through it;
    and true drawings among all *other* sets, which shows how far the distance itself recognises an identity.
    """
    art = load_art(work)
    candidates = world_candidates(art)
    pipeline = load_base(base)
    truths = sample_training_captions(art, count, seed)
    generated = generate(pipeline, [caption(style, name) for name, style in truths], cfg, seed)
    true = _true_images(art, truths)
    unseen = [(name, style) for name in HELD_OUT for style in styles_with_role("train")][:: max(1, 210 // count)]
    if sheet is not None:
        _write_sheet(generated, true, sheet)
    report = {
        f"generated, cfg {cfg:g}": retrieval(distances(generated, candidates), candidates, truths),
        "chance": _chance(candidates, count),
        "true images through the autoencoder": _through(pipeline.vae, true, truths, candidates),
        "unseen identities through the autoencoder": _through(
            pipeline.vae, _true_images(art, unseen), unseen, candidates
        ),
    }
    for style in styles_with_role("train"):
        report[f"{style}'s true images among the other sets"] = other_set_control(
            candidates, style, candidates.identities
        )
    return report


def world_candidates(art: Art) -> Candidates:
    """Return every image of the emoji world, in all styles, over white."""
    names = world_names(art.names)
    styles = tuple(icons.style for icons in ICON_SETS)
    return Candidates(on_background(art.of(names, styles)), tuple(names), styles)


def _true_images(art: Art, truths: Sequence[tuple[str, str]]) -> Pixels:
    return on_background(np.stack([art.of([name], [style])[0, 0] for name, style in truths]))


def _chance(candidates: Candidates, count: int) -> Retrieval:
    identities, styles = len(candidates.identities), len(candidates.styles)
    return Retrieval(count, 1 / styles, 1 / identities, 5 / identities)


@torch.no_grad()
def _through(
    vae: AutoencoderKL, images: Pixels, truths: Sequence[tuple[str, str]], candidates: Candidates
) -> Retrieval:
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    decoded = vae.decode(vae.encode(scaled).latent_dist.mean).sample.clamp(-1, 1)
    rebuilt = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return retrieval(distances(rebuilt, candidates), candidates, truths)


def other_set_control(candidates: Candidates, style: str, identities: Sequence[str]) -> Retrieval:
    """Return the retrieval of one set's true drawings among all other sets' drawings."""
    column = candidates.styles.index(style)
    rows = [candidates.identities.index(name) for name in identities]
    distance = distances(candidates.images[rows, column], candidates)
    distance[:, :, column] = np.inf
    return retrieval(distance, candidates, [(name, style) for name in identities])


def retrieval(distance: Floats, candidates: Candidates, truths: Sequence[tuple[str, str]], top: int = 5) -> Retrieval:
    """Return how often distances `(n, identities, styles)` point at the true `(identity, style)`.

    The style is right if the nearest image has it. The identity is right if it is among the `top` identities whose
    nearest images are closest.
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


def distances(images: Pixels, candidates: Candidates) -> Floats:
    """Return `(n, identities, styles)`: feature distance to each true image, the smallest over shifts of up to 2 px."""
    queries = features(images)
    flat = candidates.images.reshape(-1, *candidates.images.shape[2:])
    best = np.full((len(queries), len(flat)), np.inf, dtype=np.float32)
    own = (queries**2).sum(axis=1)[:, None]
    for down in SHIFTS:
        for right in SHIFTS:
            moved = features(np.roll(flat, (down, right), axis=(1, 2)))
            squared = own + (moved**2).sum(axis=1)[None] - 2 * queries @ moved.T
            np.minimum(best, squared, out=best)
    shape = (len(queries), len(candidates.identities), len(candidates.styles))
    return np.sqrt(np.maximum(best, 0)).reshape(shape)


def features(images: Pixels) -> Floats:
    """Return `(n, 9216)`: colours in 0..1 at 32 x 32 and twice their differences to the right and below.

    Euclidean distance of these is the quality bar's feature distance: colours distinguish styles and
    identities, and the differences give outlines their weight.
    """
    small = images.reshape(-1, 32, 2, 32, 2, 3).astype(np.float32).mean(axis=(2, 4)) / 255
    right = 2 * np.diff(small, axis=2, append=small[:, :, -1:])
    below = 2 * np.diff(small, axis=1, append=small[:, -1:])
    parts = [part.reshape(len(images), -1) for part in (small, right, below)]
    return np.concatenate(parts, axis=1)


def _write_sheet(generated: Pixels, true: Pixels, path: Path, columns: int = 16) -> None:
    from PIL import Image

    rows = []
    for start in range(0, len(generated) - len(generated) % columns, columns):
        chosen = slice(start, start + columns)
        rows += [np.concatenate(list(generated[chosen]), axis=1), np.concatenate(list(true[chosen]), axis=1)]
    Image.fromarray(np.concatenate(rows)).save(path)


def retrieval_table(report: Report) -> Table:
    """Return the report as a table of shares in percent."""
    table = Table(title="Nearest true image, all identities x styles as candidates")
    table.add_column("images")
    for column in ("n", "style %", "identity %", "identity in 5 %"):
        table.add_column(column, justify="right")
    for name, row in report.items():
        shares = (row.style, row.identity, row.identity_top5)
        table.add_row(name, str(row.count), *(f"{100 * share:.1f}" for share in shares))
    return table
