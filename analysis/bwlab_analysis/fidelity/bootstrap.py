"""Bootstrap intervals of means over prompts and seeds."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bwlab_analysis.measures import Interval

RESAMPLES = 2000
CONFIDENCE = 0.95
ENOUGH_VALUES = 12
"""Percentile intervals of fewer values are too narrow, and no verdict rests on them. By sampling theory they are
narrower by `sqrt((n - 1) / n)` and more (Hesterberg 2015, arXiv 1411.5279), and none reaches beyond the values."""

Array: TypeAlias = npt.NDArray[np.float64]


def bootstrap(values: npt.ArrayLike, seed: int = 0, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of `(prompts, seeds)` values with its interval (percentile bootstrap, Efron 1979).

    Args:
        values: the values.
        seed: for the resamples.
        confidence: share of the resamples that the interval holds, 0 to 1; above 0.95 more resamples are drawn, so that
            as many of them lie outside.

    Raises:
        ValueError: no values, or not two dimensions.

    """
    count = max(RESAMPLES, round(RESAMPLES * (1 - CONFIDENCE) / (1 - confidence)))
    resampled = resampled_means(values, seed, count)
    return interval(float(np.mean(np.asarray(values, np.float64))), resampled, confidence)


def interval(mean: float, resampled: npt.ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Return a number with the interval of its resamples, of 95 % by default."""
    outside = 50 * (1 - confidence)
    low, high = np.percentile(np.asarray(resampled, np.float64), [outside, 100 - outside])
    return Interval(mean, float(low), float(high))


def resampled_means(values: npt.ArrayLike, seed: int = 0, count: int = RESAMPLES) -> Array:
    """Return the means `(count,)` of `(prompts, seeds)` values, resampled over both.

    Prompts and seeds are drawn separately, because values of one prompt, or of one seed, are similar. For tables of the
    same shape, the same prompts and seeds are drawn. Where values are not similar, intervals from several prompts and
    several seeds are too wide: by 1.3 to 1.5 for independent values in 8 x 2 to 8 x 4 (Owen 2007, "The pigeonhole
    bootstrap"), so that they hold the mean in 99 % of cases instead of 95 %.

    Raises:
        ValueError: no values, or not two dimensions.

    """
    table = np.asarray(values, np.float64)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"values of shape {table.shape}, not (prompts, seeds)")
    rng = np.random.default_rng(seed)
    rows = rng.integers(table.shape[0], size=(count, table.shape[0]))
    columns = rng.integers(table.shape[1], size=(count, table.shape[1]))
    means: Array = table[rows[:, :, None], columns[:, None, :]].mean((1, 2))
    return means


def harmonic_mean(values: npt.ArrayLike) -> float:
    """Return the harmonic mean of numbers; 0 if a number is 0 or below, because nothing makes up for a lost one."""
    numbers = np.asarray(values, np.float64)
    return float(len(numbers) / (1 / numbers).sum()) if bool((numbers > 0).all()) else 0.0
