"""What each block of an adapter carries: knock-ins and knock-outs against whole adapters and the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bwlab_analysis.fidelity.bootstrap import Interval, bootstrap
from bwlab_analysis.fidelity.conditions import BASE, BOTH
from bwlab_analysis.fidelity.measure import ConditionScores


@dataclass(frozen=True)
class BlockProfile:
    """What one block of one adapter does, scorer by scorer.

    Attributes:
        adapter: ``"identity"`` or ``"style"``.
        block: the block.
        knocked_in: score with this block alone less the base's score.
        knocked_out: score of both adapters less the score without this block: what it gives beside the other adapter.
    """

    adapter: str
    block: str
    knocked_in: Mapping[str, Interval]
    knocked_out: Mapping[str, Interval]


def block_profiles(scores: Sequence[ConditionScores], seeds: int) -> list[BlockProfile]:
    """Return the profile of each block that was knocked in and out among ``scores``, differences paired by picture."""
    named = {one.name: one for one in scores}
    knocked = {
        (*one.condition.block, one.condition.knocked): one
        for one in scores
        if one.condition is not None and one.condition.block is not None
    }
    return [
        BlockProfile(
            adapter,
            block,
            difference(alone, named[BASE], seeds),
            difference(named[BOTH], knocked[adapter, block, "out"], seeds),
        )
        for (adapter, block, how), alone in knocked.items()
        if how == "in"
    ]


def difference(one: ConditionScores, other: ConditionScores, seeds: int) -> dict[str, Interval]:
    """Return the mean difference of each score, picture by picture, with its interval."""
    return {
        name: bootstrap(np.reshape(np.subtract(values, other.values[name]), (-1, seeds)))
        for name, values in one.values.items()
    }
