"""The embedded base's quality bar: does a caption give the right emoji in the right style?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Pictures = npt.NDArray[np.uint8]

SHIFTS = (-2, 0, 2)


@dataclass(frozen=True)
class Candidates:
    """True pictures to be nearest to.

    Attributes:
        pictures: ``(identities, styles, 64, 64, 3)`` uint8, over white.
        identities: names along the first axis.
        styles: style words along the second axis.
    """

    pictures: Pictures
    identities: tuple[str, ...]
    styles: tuple[str, ...]


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


def features(pictures: Pictures) -> Floats:
    """Return ``(n, 9216)``: colours in 0..1 at 32 x 32 and twice their differences to the right and below.

    Euclidean distance of these is the quality bar's feature distance: colours tell style and identity, the
    differences give outlines their weight.
    """
    small = pictures.reshape(-1, 32, 2, 32, 2, 3).astype(np.float32).mean(axis=(2, 4)) / 255
    right = 2 * np.diff(small, axis=2, append=small[:, :, -1:])
    below = 2 * np.diff(small, axis=1, append=small[:, -1:])
    parts = [part.reshape(len(pictures), -1) for part in (small, right, below)]
    return np.concatenate(parts, axis=1)


def distances(pictures: Pictures, candidates: Candidates) -> Floats:
    """Return ``(n, identities, styles)``: feature distance to each true picture, least over shifts of up to 2 px."""
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
    """Return how often distances ``(n, identities, styles)`` point at the true ``(identity, style)``.

    Style is right when the nearest picture has it; identity when one of the ``top`` identities whose nearest
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
