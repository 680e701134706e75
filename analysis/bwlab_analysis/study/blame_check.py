"""Check of the blamed blocks against an exhaustive search, which switches off every block in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from bwlab_analysis.study.plan import IDENTITY, OUT, SweepPlan
from bwlab_analysis.study.results import Blamed, PairKey
from bwlab_analysis.study.statistics import Shares

Block = tuple[str, str]
"""Adapter `"a"` (the identity's) or `"b"` (the style's), and block."""
TRIED = (1, 2, 3, 5)
"""Numbers of most blamed blocks that are tried; the best of them is switched off."""


@dataclass(frozen=True, eq=False)
class SearchedPair:
    """A pair of adapters, every block of each switched off in turn.

    Attributes:
        identity: name of the identity.
        gains: block -> change of balance when it is off.
        ways: way of blaming -> blocks, the most blamed first; a way without an answer for this pair is left out.
        recommended: change of balance by the scales that `bwlab analyze recommend` recommends; None: not searched.

    """

    identity: str
    gains: Mapping[Block, float]
    ways: Mapping[str, tuple[Block, ...]]
    recommended: float | None

    @property
    def best(self) -> float:
        """The largest gain by switching off one block; 0 if there is none."""
        return max([0.0, *self.gains.values()])

    def regret(self, way: str, tried: int) -> float:
        """Return the best gain less the best among the `tried` most blamed blocks; nothing switched off gains 0."""
        gains = (self.gains[block] for block in self.ways.get(way, ())[:tried])
        return self.best - max([0.0, *gains])

    def agrees(self, way: str) -> bool:
        """Return whether the most blamed block has the largest gain; false if no block is blamed."""
        return self.ways.get(way, ())[:1] == (max(self.gains, key=lambda block: self.gains[block]),)


def searched(shares: Shares) -> list[SearchedPair]:
    """Return every pair that was both searched exhaustively and blamed."""
    results = shares.results
    sweeps = [(sweep, names) for sweep, names in results.sweeps if sweep.mode == OUT]
    pairs = []
    for of in dict.fromkeys(sweep.of for sweep, _ in sweeps):
        tables = _gain_tables(shares, [(sweep, names) for sweep, names in sweeps if sweep.of == of], of)
        for (i, identity), (s, style) in product(enumerate(results.identities), enumerate(results.styles)):
            blame = results.blame.get((of, identity, style))
            if blame:
                gains = {block: float(table[i, s]) for block, table in tables.items()}
                ways = {way: tuple(block for block in blocks if block in gains) for way, blocks in _ways(blame)}
                recommended = _recommended_gain(shares, (of, identity, style))
                pairs.append(SearchedPair(identity, gains, ways, recommended))
    return pairs


def _gain_tables(shares: Shares, sweeps: Sequence[tuple[SweepPlan, Mapping[str, str]]], of: str) -> dict[Block, Any]:
    """Return the changes of balance by block, `(identities, styles)` each."""
    adapters = shares.results.plan["adapters"]
    gains = {}
    for sweep, names in sweeps:
        adapter = "a" if adapters[sweep.adapter]["learns"] == IDENTITY else "b"
        for block, name in names.items():
            without = shares.balance(name)
            whole = shares.balance(of, without.shape[2])
            gains[adapter, block] = (without - whole).mean((2, 3))
    return gains


def _recommended_gain(shares: Shares, pair: PairKey) -> float | None:
    """Return the change of balance by the recommended scales; 0 if none could be recommended."""
    results = shares.results
    if pair not in results.recommended:
        return None
    balances = shares.of_recommended(pair)
    i, s = results.identities.index(pair[1]), results.styles.index(pair[2])
    return 0.0 if balances is None else float(balances.mean() - shares.balance(pair[0], 1)[i, s].mean())


def _ways(blame: Mapping[str, Sequence[Blamed]]) -> Iterator[tuple[str, list[Block]]]:
    """Yield each way of blaming with its order of blocks: by the other adapter's gain, and by gain minus loss."""
    for way, blocks in blame.items():
        yield f"{way}, gain", _ranked(blocks, 0.0)
        if all(block.loss is not None for block in blocks):
            yield f"{way}, gain - cost", _ranked(blocks, 1.0)


def _ranked(blocks: Sequence[Blamed], cost: float) -> list[Block]:
    ordered = sorted(blocks, key=lambda block: cost * max(block.loss or 0.0, 0.0) - block.gain)
    return [(block.adapter, block.block) for block in ordered]
