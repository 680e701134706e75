"""Is the block that is blamed the one to switch off? Against switching off every block in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from bwlab_analysis.study.plan import IDENTITY, OUT, SweepPlan
from bwlab_analysis.study.results import Blamed, Where
from bwlab_analysis.study.statistics import Shares

Block = tuple[str, str]
"""Adapter `"a"` (the identity's) or `"b"` (the style's), and block."""
TRIED = (1, 2, 3, 5)


@dataclass(frozen=True, eq=False)
class Searched:
    """One pair of adapters, every block of each switched off in turn.

    Attributes:
        identity: whose pair it is.
        gains: block -> change of balance when it is off.
        ways: way of blaming -> blocks, the most blamed first; without a way that says nothing of this pair.
        recommended: change of balance by what `fidelity.recommend.recommended` found; None: not searched.

    """

    identity: str
    gains: Mapping[Block, float]
    ways: Mapping[str, tuple[Block, ...]]
    recommended: float | None

    @property
    def best(self) -> float:
        """The best gain of one block off; 0 if none gains."""
        return max([0.0, *self.gains.values()])

    def regret(self, way: str, tried: int) -> float:
        """Return the best gain less that of the best among the first `tried` blamed; nothing switched off gains 0."""
        gains = (self.gains[block] for block in self.ways.get(way, ())[:tried])
        return self.best - max([0.0, *gains])

    def agrees(self, way: str) -> bool:
        """Return whether the most blamed block is the one of most gain; not if no block is blamed."""
        return self.ways.get(way, ())[:1] == (max(self.gains, key=lambda block: self.gains[block]),)


def searched(shares: Shares) -> list[Searched]:
    """Return every pair that was both searched exhaustively and blamed."""
    results = shares.results
    sweeps = [one for one in results.sweeps if one[0].mode == OUT]
    found = []
    for of in dict.fromkeys(sweep.of for sweep, _ in sweeps):
        gains = _gains(shares, [one for one in sweeps if one[0].of == of], of)
        for (i, identity), (s, style) in product(enumerate(results.identities), enumerate(results.styles)):
            ways = results.blame.get((of, identity, style))
            if ways:
                here = {block: float(table[i, s]) for block, table in gains.items()}
                found.append(
                    Searched(
                        identity,
                        here,
                        {way: _order(blamed, here) for way, blamed in _ways(ways)},
                        _gain(shares, (of, identity, style)),
                    )
                )
    return found


def _gain(shares: Shares, where: Where) -> float | None:
    """Return the change of balance by what was recommended; 0 if nothing could be."""
    results = shares.results
    if where not in results.recommended:
        return None
    found = shares.of_recommended(where)
    i, s = results.identities.index(where[1]), results.styles.index(where[2])
    return 0.0 if found is None else float(found.mean() - shares.balance(where[0], 1)[i, s].mean())


def _ways(ways: Mapping[str, Sequence[Blamed]]) -> Iterator[tuple[str, list[Block]]]:
    """Each way of blaming as an order of blocks: by what the other gets back, and by that less what it costs."""
    for way, blamed in ways.items():
        yield f"{way}, gain", _ranked(blamed, 0.0)
        if all(one.loss is not None for one in blamed):
            yield f"{way}, gain - cost", _ranked(blamed, 1.0)


def _ranked(blamed: Sequence[Blamed], cost: float) -> list[Block]:
    ordered = sorted(blamed, key=lambda one: cost * max(one.loss or 0.0, 0.0) - one.gain)
    return [(one.adapter, one.block) for one in ordered]


def _order(blamed: Sequence[Block], gains: Mapping[Block, float]) -> tuple[Block, ...]:
    return tuple(block for block in blamed if block in gains)


def _gains(shares: Shares, sweeps: Sequence[tuple[SweepPlan, Mapping[str, str]]], of: str) -> dict[Block, Any]:
    """Block -> `(identities, styles)` changes of balance."""
    adapters = shares.results.plan["adapters"]
    gains = {}
    for sweep, names in sweeps:
        adapter = "a" if adapters[sweep.adapter]["learns"] == IDENTITY else "b"
        for block, name in names.items():
            without = shares.balance(name)
            whole = shares.balance(of, without.shape[2])
            gains[adapter, block] = (without - whole).mean((2, 3))
    return gains
