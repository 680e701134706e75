"""Merges of dense deltas of one layer that look at single numbers: TIES and DARE."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from bwlab.lowrank import Array

TIES_DENSITY = 0.2  # the paper's default: keep the top 20 %
DARE_DENSITY = 0.5


def ties(deltas: Sequence[Array], density: float) -> Array:
    """The TIES merge of deltas of one shape: trimmed, one sign elected for each number, the mean of those that agree.

    Source: TIES-Merging, Yadav et al. (arXiv 2306.01708), section 4, with numbers ranked within this layer rather than
    over the whole model; its lambda is a scale of all deltas.

    Args:
        deltas: scaled already.
        density: share of the largest numbers of each delta that is kept, above 0 to 1.
    """
    kept = np.stack([trimmed(delta, density) for delta in deltas])
    elected = np.sign(kept.sum(axis=0))
    agreeing = (np.sign(kept) == elected) & (kept != 0)
    counts = np.maximum(agreeing.sum(axis=0), 1)
    merged: Array = np.where(agreeing, kept, 0.0).sum(axis=0) / counts
    return merged


def trimmed(delta: Array, density: float) -> Array:
    """The delta with all but its largest numbers by size set to 0; ties at the edge are all kept."""
    count = max(1, round(density * delta.size))
    if count >= delta.size:
        return delta
    sizes = np.abs(delta)
    edge = np.partition(sizes, delta.size - count, axis=None)[delta.size - count]
    return np.where(sizes >= edge, delta, 0.0)


def dare(delta: Array, density: float, generator: np.random.Generator) -> Array:
    """The delta with numbers dropped at random and the others divided by the share that is kept: the same on average.

    Source: DARE, Yu et al. (arXiv 2311.03099), section 3.2, with drop rate `1 - density`.
    """
    return np.where(generator.random(delta.shape) < density, delta / density, 0.0)


def module_generator(seed: int, place: int, path: str) -> np.random.Generator:
    """Random numbers of one module of one adapter: the same whatever other modules there are.

    Args:
        seed: of the merge.
        place: of the adapter among those merged.
        path: of the module.
    """
    return np.random.default_rng([seed, place, zlib.crc32(path.encode())])
