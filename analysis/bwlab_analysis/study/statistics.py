"""What a study's numbers say: shares of what can be reached, differences with intervals, and rank correlations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from bwlab_analysis.fidelity.bootstrap import Interval, bootstrap
from bwlab_analysis.study.plan import BASE, TRUE
from bwlab_analysis.study.results import Floats, Results, Where

RESAMPLES = 500
"""Of identities, for the interval of a rank correlation."""
KINDS = ("identity", "style")


@dataclass(frozen=True, eq=False)
class Shares:
    """Scores on a scale from 0, what the base paints for the words, to 1, the true picture.

    A picture's share is its score less the mean score of the base's pictures for the same identity and style, over
    the mean distance, of all identities and styles, from the base's score to the true picture's. Without true pictures
    the learned pictures' own score is 1.
    """

    results: Results

    @cached_property
    def _zero(self) -> dict[str, Floats]:
        return {kind: self.results.values(BASE, kind) for kind in KINDS}

    @cached_property
    def _unit(self) -> dict[str, float]:
        return {kind: float((self._top(kind) - self._zero[kind][:, :, :1].mean((2, 3))).mean()) for kind in KINDS}

    def _top(self, kind: str) -> Floats:
        """Return the best score, `(identities, styles)`."""
        control = TRUE if self.results.scored(TRUE, kind) else f"{kind}'s pictures"
        return np.asarray(self.results.values(control, kind).mean((2, 3)), np.float64)

    def of(self, composition: str, kind: str, prompts: int | None = None) -> Floats:
        """Return `(identities, styles, prompts, seeds)` shares of identity or style."""
        values = self.results.values(composition, kind, prompts)
        # A sweep or a control has fewer prompts than the base: each is compared with the base's own of that prompt.
        zero = self._zero[kind][:, :, : values.shape[2]].mean(3, keepdims=True)
        return np.asarray((values - zero) / self._unit[kind], np.float64)

    def of_recommended(self, where: Where) -> Floats | None:
        """Return `(seeds,)` balances of what was recommended for a pair; None where nothing could be."""
        found = self.results.recommended[where]
        if not found:
            return None
        i, s = self.results.identities.index(where[1]), self.results.styles.index(where[2])
        one, other = ((found[kind] - self._zero[kind][i, s, :1].mean()) / self._unit[kind] for kind in KINDS)
        balance: Floats = harmonic(one, other)[0]
        return balance

    def balance(self, composition: str, prompts: int | None = None) -> Floats:
        """Return `(identities, styles, prompts, seeds)` harmonic means of both shares, each at least 0."""
        return harmonic(*(self.of(composition, kind, prompts) for kind in KINDS))


def harmonic(one: Floats, other: Floats) -> Floats:
    """Return the harmonic mean, 0 where either is 0 or below."""
    a, b = np.clip(one, 0, None), np.clip(other, 0, None)
    return np.asarray(np.divide(2 * a * b, a + b, out=np.zeros_like(a), where=a + b > 0), np.float64)


def interval(values: Floats) -> Interval:
    """Return the mean of `(identities, styles, prompts, seeds)` values, resampled over identities and seeds.

    Styles and prompts are the study's own choice: they are averaged.
    """
    return bootstrap(values.mean((1, 2)))


def lost(shares: Shares, composition: str) -> Floats:
    """Return `(identities, styles)`: what a pair loses against each of its adapters alone, in shares.

    The mean of the identity's share lost (against the identity's adapter alone) and the style's; below 0 for a gain.
    """
    alone = dict(zip(KINDS, shares.results.alone[composition], strict=True))
    both = [shares.of(alone[kind], kind, _prompts(shares, composition, kind)) for kind in KINDS]
    kept = [shares.of(composition, kind) for kind in KINDS]
    return np.asarray(sum((a - b).mean((2, 3)) for a, b in zip(both, kept, strict=True)) / 2, np.float64)


def _prompts(shares: Shares, composition: str, kind: str) -> int:
    return int(shares.results.values(composition, kind).shape[2])


@dataclass(frozen=True)
class Split:
    """Pairs on which a measure is chosen, and pairs of other identities and other styles on which it is told.

    Attributes:
        chosen_on, told_on: (composition, identity, style) each.

    """

    chosen_on: tuple[Where, ...]
    told_on: tuple[Where, ...]


def split(results: Results) -> Split:
    """Return the first half of identities with the first third of styles, and the others with the others."""
    half, third = len(results.identities) // 2, max(1, len(results.styles) // 3)
    first = set(product(results.identities[:half], results.styles[:third]))
    last = set(product(results.identities[half:], results.styles[third:]))
    measured = [where for where in results.measures if where[0] in results.alone]
    chosen_on, told_on = (tuple(where for where in measured if where[1:] in part) for part in (first, last))
    return Split(chosen_on, told_on)


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation over pairs, with a 95 % interval from resampled identities.

    Attributes:
        rho: -1..1; nan if there are fewer than three pairs or either side is constant.
        low, high: its interval; nan without one.
        pairs: how many.

    """

    rho: float
    low: float
    high: float
    pairs: int


def correlation(
    where: Sequence[Where],
    measures: Mapping[Where, Mapping[str, float]],
    name: str,
    outcome: Mapping[Where, float],
    resamples: int = RESAMPLES,
) -> Correlation:
    """Return how a measure's ranks go with an outcome's, over pairs where the measure has an answer.

    Args:
        where: the pairs.
        measures: of pairs, by name.
        name: the measure.
        outcome: of pairs.
        resamples: of identities, for the interval; 0: none is asked for, it is nan.

    """
    known = [(one, measures[one][name]) for one in where if name in measures[one] and one in outcome]
    values = np.array([value for _, value in known])
    outcomes = np.array([outcome[one] for one, _ in known])
    people = sorted({one[1] for one, _ in known})
    rows = [np.array([place for place, (one, _) in enumerate(known) if one[1] == who]) for who in people]
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(resamples if people else 0):
        chosen = np.concatenate([rows[place] for place in rng.integers(len(people), size=len(people))])
        drawn.append(spearman(values[chosen], outcomes[chosen]))
    finite = [one for one in drawn if np.isfinite(one)]
    low, high = np.percentile(finite, [2.5, 97.5]) if finite else (np.nan, np.nan)
    return Correlation(spearman(values, outcomes), float(low), float(high), len(known))


def spearman(one: Floats, other: Floats) -> float:
    """Return Spearman's rho with ties at their mean rank; nan where it is not defined."""
    from scipy.stats import rankdata

    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


def losses(shares: Shares, compositions: Iterable[str]) -> dict[Where, float]:
    """Return `lost` of every identity and style of these compositions."""
    results = shares.results
    found: dict[Where, float] = {}
    for composition in compositions:
        table = lost(shares, composition)
        for (i, identity), (s, style) in product(enumerate(results.identities), enumerate(results.styles)):
            found[composition, identity, style] = float(table[i, s])
    return found
