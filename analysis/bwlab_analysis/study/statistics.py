"""Statistics of a study: shares of what can be reached, differences with intervals, and rank correlations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from bwlab_analysis.fidelity.bootstrap import bootstrap
from bwlab_analysis.measures import Interval
from bwlab_analysis.study.plan import BASE, IDENTITY, STYLE, TRUE
from bwlab_analysis.study.results import Floats, PairKey, Results

RESAMPLES = 500
"""Number of resamples of identities for the interval of a rank correlation."""
SUBJECT_KINDS = (IDENTITY, STYLE)


@dataclass(frozen=True, eq=False)
class Shares:
    """Scores on a scale from 0, the base's images for the words, to 1, the true image.

    An image's share is its score less the mean score of the base's images for the same identity and style, over the
    mean distance, of all identities and styles, from the base's score to the true image's. Without true images the
    score of the learned images themselves is 1.
    """

    results: Results

    @cached_property
    def _zero(self) -> dict[str, Floats]:
        return {kind: self.results.values(BASE, kind) for kind in SUBJECT_KINDS}

    @cached_property
    def _unit(self) -> dict[str, float]:
        return {
            kind: float((self._top(kind) - self._zero[kind][:, :, :1].mean((2, 3))).mean()) for kind in SUBJECT_KINDS
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
        return np.asarray((values - zero) / self._unit[kind], np.float64)

    def of_recommended(self, pair: PairKey) -> Floats | None:
        """Return `(seeds,)` balances of the scales recommended for a pair; None where none could be."""
        scores = self.results.recommended[pair]
        if not scores:
            return None
        i, s = self.results.identities.index(pair[1]), self.results.styles.index(pair[2])
        identity, style = (
            (scores[kind] - self._zero[kind][i, s, :1].mean()) / self._unit[kind] for kind in SUBJECT_KINDS
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


def interval(values: Floats) -> Interval:
    """Return the mean of `(identities, styles, prompts, seeds)` values, resampled over identities and seeds.

    Styles and prompts are the study's own choice: they are averaged.
    """
    return bootstrap(values.mean((1, 2)))


def lost(shares: Shares, composition: str) -> Floats:
    """Return `(identities, styles)`: the shares that a pair loses against each of its adapters alone.

    The mean of the identity's share lost (against the identity's adapter alone) and the style's; below 0 for a gain.
    """
    alone = dict(zip(SUBJECT_KINDS, shares.results.alone[composition], strict=True))
    both = [shares.of(alone[kind], kind, _prompts(shares, composition, kind)) for kind in SUBJECT_KINDS]
    kept = [shares.of(composition, kind) for kind in SUBJECT_KINDS]
    return np.asarray(sum((a - b).mean((2, 3)) for a, b in zip(both, kept, strict=True)) / 2, np.float64)


def _prompts(shares: Shares, composition: str, kind: str) -> int:
    return int(shares.results.values(composition, kind).shape[2])


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
    outcome: Mapping[PairKey, float],
    resamples: int = RESAMPLES,
) -> Correlation:
    """Return how a measure's ranks go with an outcome's, over pairs where the measure has an answer.

    Args:
        pairs: the pairs.
        measures: the measures of each pair, by name.
        name: name of the measure.
        outcome: the outcome of each pair.
        resamples: number of resamples of identities for the interval; with 0 the interval is nan.

    """
    known = [pair for pair in pairs if name in measures[pair] and pair in outcome]
    values = np.array([measures[pair][name] for pair in known])
    outcomes = np.array([outcome[pair] for pair in known])
    identities = sorted({identity for _, identity, _ in known})
    rows = [np.array([row for row, pair in enumerate(known) if pair[1] == identity]) for identity in identities]
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(resamples if identities else 0):
        chosen = np.concatenate([rows[index] for index in rng.integers(len(identities), size=len(identities))])
        drawn.append(spearman(values[chosen], outcomes[chosen]))
    finite = [rho for rho in drawn if np.isfinite(rho)]
    low, high = np.percentile(finite, [2.5, 97.5]) if finite else (np.nan, np.nan)
    return Correlation(spearman(values, outcomes), float(low), float(high), len(known))


def spearman(x: Floats, y: Floats) -> float:
    """Return Spearman's rho with ties at their mean rank; nan where it is not defined."""
    from scipy.stats import rankdata

    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def losses(shares: Shares, compositions: Iterable[str]) -> dict[PairKey, float]:
    """Return `lost` of every identity and style of these compositions."""
    results = shares.results
    by_pair: dict[PairKey, float] = {}
    for composition in compositions:
        table = lost(shares, composition)
        for (i, identity), (s, style) in product(enumerate(results.identities), enumerate(results.styles)):
            by_pair[composition, identity, style] = float(table[i, s])
    return by_pair
