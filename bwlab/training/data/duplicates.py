"""Pictures that are there twice: the same file, or the same picture in another size or quality.

The fingerprint is the perceptual hash of Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions"
(2010), section 3.2: which of the lowest frequencies of a small grey copy are above their median.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Thing = TypeVar("Thing", bound=Hashable)

SIDE = 32
FREQUENCIES = 8
BITS = FREQUENCIES**2 - 1
ALIKE = 4  # bits that may differ
ROWS = 1024  # compared at once

Fingerprint = NDArray[np.bool_]


class Alike(NamedTuple):
    """Two pictures that look the same.

    Attributes:
        first: number of one.
        second: number of the other, which is greater.
        bits: of `BITS` in which their fingerprints differ.
    """

    first: int
    second: int
    bits: int


def fingerprint(image: Image.Image) -> Fingerprint:
    """Return which low frequencies of an image are above their median, ``(63,)``; all false for one flat colour."""
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), np.float64)
    waves = cosines(SIDE)[:FREQUENCIES]
    low = (waves @ grey @ waves.T).ravel()[1:]  # without the mean
    found: Fingerprint = low > np.median(low) + 1e-6
    return found


def cosines(side: int) -> NDArray[np.float64]:
    """Return the matrix of the discrete cosine transform (DCT-II, not normalised), ``(side, side)``."""
    places = np.arange(side)
    found: NDArray[np.float64] = np.cos(np.pi / side * (places + 0.5) * places[:, None])
    return found


def lookalikes(fingerprints: Sequence[Fingerprint], most: int = ALIKE) -> Iterator[Alike]:
    """Yield all pairs whose fingerprints differ in at most ``most`` bits."""
    signs = np.stack(fingerprints).astype(np.float32) * 2 - 1 if fingerprints else np.zeros((0, BITS), np.float32)
    for start in range(0, len(signs), ROWS):
        distances = (BITS - signs[start : start + ROWS] @ signs.T) / 2
        for row, column in np.argwhere(distances <= most).tolist():
            if start + row < column:
                yield Alike(start + row, column, round(float(distances[row, column])))


def same(digests: Mapping[Thing, str]) -> list[tuple[Thing, ...]]:
    """Return the groups of things with equal digests, in their order."""
    groups: dict[str, list[Thing]] = {}
    for thing, digest in digests.items():
        groups.setdefault(digest, []).append(thing)
    return [tuple(group) for group in groups.values() if len(group) > 1]
