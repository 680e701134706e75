"""TIES and DARE: merges of dense deltas of one layer in which most numbers are set to 0."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from bwlab.linalg.factored import Array

TIES_DENSITY = 0.2  # the paper's default: keep the top 20 %
DARE_DENSITY = 0.5


def ties(deltas: Sequence[Array], density: float) -> Array:
    """Return the TIES merge of deltas: trimmed, with an elected sign for each number and the mean of those numbers.

    Source: TIES-Merging, Yadav et al. (arXiv 2306.01708), section 4, with numbers ranked within this layer rather than
    over the whole model; its lambda is a common scale of all deltas.

    Args:
        deltas: the scaled deltas.
        density: share of the largest numbers of each delta that is kept, above 0 up to 1.

    """
    kept = np.stack([trimmed(delta, density) for delta in deltas])
    elected = np.sign(kept.sum(axis=0))
    agreeing = (np.sign(kept) == elected) & (kept != 0)
    counts = np.maximum(agreeing.sum(axis=0), 1)
    merged: Array = np.where(agreeing, kept, 0.0).sum(axis=0) / counts
    return merged


def trimmed(delta: Array, density: float) -> Array:
    """Return the delta with all but its largest numbers by size set to 0; ties at the edge are all kept."""
    count = max(1, round(density * delta.size))
    if count >= delta.size:
        return delta
    sizes = np.abs(delta)
    edge = np.partition(sizes, delta.size - count, axis=None)[delta.size - count]
    return np.where(sizes >= edge, delta, 0.0)


def dare(delta: Array, density: float, generator: np.random.Generator) -> Array:
    """Return the delta with numbers dropped at random and the others divided by the share that is kept.

    Source: DARE, Yu et al. (arXiv 2311.03099), section 3.2, with drop rate `1 - density`.
    """
    return np.where(generator.random(delta.shape) < density, delta / density, 0.0)


def module_generator(seed: int, index: int, path: str) -> np.random.Generator:
    """Return the random generator of one module of one adapter, which does not depend on other modules.

    Args:
        seed: seed of the merge.
        index: index of the adapter in the merge.
        path: path of the module.

    """
    return np.random.default_rng([seed, index, zlib.crc32(path.encode())])
