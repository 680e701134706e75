"""Images that are the same file, or look the same by a perceptual hash.

Source: Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions" (the hash by DCT).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Key = TypeVar("Key", bound=Hashable)

SIDE = 32
FREQUENCIES = 8
BITS = FREQUENCIES**2 - 1
NEAR_DUPLICATE_BITS = 4  # greatest number of bits that differ
ROWS_AT_ONCE = 128

Fingerprint = NDArray[np.bool_]


class SimilarPair(NamedTuple):
    """Two images that look the same.

    Attributes:
        first: number of the first image.
        second: number of the second image, which is greater.
        bits: number of bits, of `BITS`, in which their fingerprints differ.

    """

    first: int
    second: int
    bits: int


def fingerprint(image: Image.Image) -> Fingerprint:
    """Return which low frequencies of an image are above their median, `(63,)`; all false for one flat colour."""
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), np.float64)
    waves = cosines(SIDE)[:FREQUENCIES]
    low = (waves @ grey @ waves.T).ravel()[1:]  # without the mean
    above: Fingerprint = low > np.median(low) + 1e-6
    return above


def cosines(side: int) -> NDArray[np.float64]:
    """Return the matrix of the discrete cosine transform (DCT-II, not normalised), `(side, side)`."""
    indices = np.arange(side)
    matrix: NDArray[np.float64] = np.cos(np.pi / side * (indices + 0.5) * indices[:, None])
    return matrix


def similar_pairs(fingerprints: Sequence[Fingerprint], most: int = NEAR_DUPLICATE_BITS) -> Iterator[SimilarPair]:
    """Yield all pairs whose fingerprints differ in at most `most` bits."""
    signs = np.stack(fingerprints).astype(np.float32) * 2 - 1 if fingerprints else np.zeros((0, BITS), np.float32)
    for begin in range(0, len(signs), ROWS_AT_ONCE):
        products = signs[begin : begin + ROWS_AT_ONCE] @ signs[begin:].T  # equal bits less different ones
        near = products >= BITS - 2 * most
        for row in np.flatnonzero(np.count_nonzero(near, axis=1) > 1).tolist():  # every image is near to itself
            for column in (row + 1 + np.flatnonzero(near[row, row + 1 :])).tolist():
                yield SimilarPair(begin + row, begin + column, round((BITS - float(products[row, column])) / 2))


def equal_groups(digests: Mapping[Key, str]) -> list[tuple[Key, ...]]:
    """Return the groups of two or more keys with equal digests, in their order."""
    groups: dict[str, list[Key]] = {}
    for key, digest in digests.items():
        groups.setdefault(digest, []).append(key)
    return [tuple(group) for group in groups.values() if len(group) > 1]
