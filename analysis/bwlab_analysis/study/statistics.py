"""Statistics of a study: shares of what can be reached, differences with intervals, and rank correlations.

A rank correlation stands beside its ceiling: what a perfect predictor would reach, given how much the outcome differs
from prompt to prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bwlab_analysis.fidelity.bootstrap import CONFIDENCE, bootstrap
from bwlab_analysis.measures import Interval
from bwlab_analysis.study.plan import BASE, IDENTITY, STYLE, TRUE
from bwlab_analysis.study.results import Floats, PairKey, Results

Ints: TypeAlias = npt.NDArray[np.int64]
RESAMPLES = 500
"""Number of resamples of identities for the interval of a rank correlation."""
SUBJECT_KINDS = (IDENTITY, STYLE)


@dataclass(frozen=True, eq=False)
class Shares:
    """Scores on a scale from 0, the base's images for the same words, to 1, the true image.

    An image's share is its score less the mean score of the base's images for the same identity and style, over the
    mean distance, of all identities in the same style, from the base's score to the true image's. Without true images
    the score of the learned images themselves is 1.
    """

    results: Results

    @cached_property
    def _zero(self) -> dict[str, Floats]:
        return {kind: self.results.values(BASE, kind) for kind in SUBJECT_KINDS}

    @cached_property
    def _unit(self) -> dict[str, Floats]:
        """The distance from 0 to 1 in scores, `(styles,)`: styles differ in how much of an identity they leave."""
        return {
            kind: np.asarray((self._top(kind) - self._zero[kind][:, :, :1].mean((2, 3))).mean(0), np.float64)
            for kind in SUBJECT_KINDS
        }

    def _top(self, kind: str) -> Floats:
        """Return the best score, `(identities, styles)`."""
        control = TRUE if self.results.scored(TRUE, kind) else f"{kind}'s images"
        return np.asarray(self.results.values(control, kind).mean((2, 3)), np.float64)

    def of(self, composition: str, kind: str, prompts: int | None = None) -> Floats:
        """Return `(identities, styles, prompts, seeds)` shares of identity or style."""
        values = self.results.values(composition, kind, prompts)
        # A sweep or a control has fewer prompts than the base: each is compared with the base's own of that prompt.
        zero = self._zero[kind][:, :, : values.shape[2]].mean(3, keepdims=True)
        return np.asarray((values - zero) / self._unit[kind][:, None, None], np.float64)

    def of_recommended(self, pair: PairKey) -> Floats | None:
        """Return `(seeds,)` balances of the scales recommended for a pair; None where none could be."""
        scores = self.results.recommended[pair]
        if not scores:
            return None
        i, s = self.results.identities.index(pair[1]), self.results.styles.index(pair[2])
        identity, style = (
            (scores[kind] - self._zero[kind][i, s, :1].mean()) / self._unit[kind][s] for kind in SUBJECT_KINDS
        )
        balance: Floats = harmonic(identity, style)[0]
        return balance

    def balance(self, composition: str, prompts: int | None = None) -> Floats:
        """Return `(identities, styles, prompts, seeds)` harmonic means of both shares, each at least 0."""
        return harmonic(*(self.of(composition, kind, prompts) for kind in SUBJECT_KINDS))


def harmonic(first: Floats, second: Floats) -> Floats:
    """Return the harmonic mean, 0 where either is 0 or below."""
    a, b = np.clip(first, 0, None), np.clip(second, 0, None)
    return np.asarray(np.divide(2 * a * b, a + b, out=np.zeros_like(a), where=a + b > 0), np.float64)


def interval(values: Floats, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of `(identities, styles, prompts, seeds)` values, resampled over identities and seeds.

    Styles and prompts are the study's own choice: they are averaged.
    """
    return bootstrap(values.mean((1, 2)), confidence=confidence)


def lost(shares: Shares, composition: str, kind: str) -> Floats:
    """Return `(identities, styles, prompts)`: the share of identity, or of style, that a pair loses.

    It is the share with the adapter that learned it alone, less that with both adapters; below 0 for a gain.
    """
    alone = dict(zip(SUBJECT_KINDS, shares.results.alone[composition], strict=True))[kind]
    kept = shares.of(composition, kind)
    return np.asarray((shares.of(alone, kind, kept.shape[2]) - kept).mean(3), np.float64)


@dataclass(frozen=True)
class Split:
    """Pairs on which a measure is chosen, and pairs of other identities and other styles that are held out.

    Attributes:
        chosen_on, held_out: (composition, identity, style) each.

    """

    chosen_on: tuple[PairKey, ...]
    held_out: tuple[PairKey, ...]


def split(results: Results) -> Split:
    """Return the first half of identities with the first third of styles, and the others with the others."""
    half, third = len(results.identities) // 2, max(1, len(results.styles) // 3)
    first = set(product(results.identities[:half], results.styles[:third]))
    last = set(product(results.identities[half:], results.styles[third:]))
    measured = [pair for pair in results.measures if pair[0] in results.alone]
    chosen_on, held_out = (tuple(pair for pair in measured if pair[1:] in part) for part in (first, last))
    return Split(chosen_on, held_out)


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation over pairs, with a 95 % interval from resampled identities.

    Attributes:
        rho: -1..1; nan if there are fewer than three pairs or either side is constant.
        low, high: its interval; nan without one.
        pairs: number of pairs.

    """

    rho: float
    low: float
    high: float
    pairs: int


def correlation(
    pairs: Sequence[PairKey],
    measures: Mapping[PairKey, Mapping[str, float]],
    name: str,
    outcome: Mapping[PairKey, Floats],
    resamples: int = RESAMPLES,
) -> Correlation:
    """Return the rank correlation of a measure with an outcome, over pairs for which the measure has a value.

    Args:
        pairs: the pairs.
        measures: the measures of each pair, by name.
        name: name of the measure.
        outcome: the outcome of each pair, `(prompts,)`, of which the mean counts.
        resamples: number of resamples of identities for the interval; with 0 the interval is nan.

    """
    known = [pair for pair in pairs if name in measures[pair] and pair in outcome]
    values = np.array([measures[pair][name] for pair in known])
    outcomes = np.array([outcome[pair].mean() for pair in known])
    identities = sorted({identity for _, identity, _ in known})
    rows = [np.array([row for row, pair in enumerate(known) if pair[1] == identity]) for identity in identities]
    rng = np.random.default_rng(0)
    chosen = [
        np.concatenate([rows[index] for index in rng.integers(len(identities), size=len(identities))])
        for _ in range(resamples if identities else 0)
    ]
    drawn = [rho for same_size in of_one_size(chosen) for rho in spearmans(values[same_size], outcomes[same_size])]
    finite = [rho for rho in drawn if np.isfinite(rho)]
    low, high = np.percentile(finite, [2.5, 97.5]) if finite else (np.nan, np.nan)
    return Correlation(spearman(values, outcomes), float(low), float(high), len(known))


def spearman(x: Floats, y: Floats) -> float:
    """Return Spearman's rho with ties at their mean rank; nan where it is not defined."""
    return float(spearmans(x[None], y[None])[0])


def spearmans(x: Floats, y: Floats) -> Floats:
    """Return Spearman's rho of each row of `(rows, n)` tables, as `spearman` does."""
    from scipy.stats import rankdata

    if x.shape[1] < 3:
        return np.full(len(x), np.nan)
    a, b = (ranks - ranks.mean(1, keepdims=True) for ranks in (rankdata(x, axis=1), rankdata(y, axis=1)))
    norms = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.asarray(np.divide((a * b).sum(1), norms, out=np.full(len(x), np.nan), where=norms > 0), np.float64)


def of_one_size(rows: Iterable[Sequence[int] | Ints]) -> list[Ints]:
    """Return lists of row numbers as tables `(lists, n)`, one for each n."""
    by_size: dict[int, list[Sequence[int] | Ints]] = {}
    for chosen in rows:
        by_size.setdefault(len(chosen), []).append(chosen)
    return [np.array(lists) for lists in by_size.values()]


def losses(shares: Shares, compositions: Iterable[str], kind: str) -> dict[PairKey, Floats]:
    """Return what every identity and style of these compositions loses by prompt, `(prompts,)`: see `lost`."""
    results = shares.results
    by_pair: dict[PairKey, Floats] = {}
    for composition in compositions:
        table = lost(shares, composition, kind)
        for (i, identity), (s, style) in product(enumerate(results.identities), enumerate(results.styles)):
            by_pair[composition, identity, style] = table[i, s]
    return by_pair


def halves(prompts: int) -> list[tuple[list[int], list[int]]]:
    """Return every way to split the prompts into two halves, each in both orders.

    >>> halves(2)
    [([0], [1]), ([1], [0])]
    """
    firsts = map(list, combinations(range(prompts), prompts // 2))
    return [(first, [other for other in range(prompts) if other not in first]) for first in firsts]


def reliability(outcome: Floats) -> float:
    """Return the mean rank correlation of `(pairs, prompts)` outcomes' means over two halves of the prompts.

    With fewer than two prompts or three pairs it is nan.
    """
    if outcome.shape[1] < 2:
        return float("nan")
    firsts, seconds = zip(*halves(outcome.shape[1]), strict=True)
    return float(np.mean(spearmans(half_means(outcome, firsts), half_means(outcome, seconds))))


def half_means(outcome: Floats, halves_of: Sequence[Sequence[int]]) -> Floats:
    """Return `(halves, pairs)` means of `(pairs, prompts)` outcomes over each of several halves of the prompts."""
    return np.stack([outcome[:, half].mean(1) for half in halves_of])


def ceiling(outcome: Floats, half: bool = False) -> float:
    """Return the rank correlation that a perfect predictor could reach: the root of the outcome's reliability.

    Args:
        outcome: `(pairs, prompts)`.
        half: whether the outcome to predict is the mean over half of the prompts; otherwise the reliability of all is
            extrapolated (Spearman and Brown 1910).

    """
    of_half = reliability(outcome)
    of_half = 0.0 if of_half < 0 else of_half
    return math.sqrt(of_half if half else 2 * of_half / (1 + of_half))
