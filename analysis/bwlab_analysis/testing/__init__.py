"""The test kit for authors of block metrics, conflict measures and fidelity scorers.

In a plugin's test suite:

    from bwlab_analysis.testing import MetricContract
    from my_plugin.plugin import MY_METRIC

    class TestMyMetric(MetricContract):
        metric = MY_METRIC

A conflict measure is tested by `ConflictContract` and its `measure` in the same way, a scorer by `ScorerContract` and
its `scorer`. `bwlab plugins check NAME` runs the same clauses.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from bwlab.testing.contract import Contract, Outcome, outcomes
from bwlab_analysis.measures import BlockMetric, ConflictMeasure, FidelityScorer
from bwlab_analysis.testing.scorers import SCORER_CLAUSES, ScorerBench
from bwlab_analysis.testing.weights import WEIGHTS_CLAUSES, WeightsBench

__all__ = [
    "ConflictContract",
    "MetricContract",
    "ScorerContract",
    "run_scorer_contract",
    "run_weights_contract",
]


class MetricContract(Contract):
    """One test for each clause of the contract of block metrics; a subclass gives `metric`."""

    clauses = WEIGHTS_CLAUSES
    metric: ClassVar[BlockMetric]

    def bench(self) -> WeightsBench:
        """Return random deltas for this metric."""
        return WeightsBench(self.metric)


class ConflictContract(Contract):
    """One test for each clause of the contract of conflict measures; a subclass gives `measure`."""

    clauses = WEIGHTS_CLAUSES
    measure: ClassVar[ConflictMeasure]

    def bench(self) -> WeightsBench:
        """Return random pairs of deltas for this measure."""
        return WeightsBench(self.measure)


class ScorerContract(Contract):
    """One test for each clause of the contract of fidelity scorers; a subclass gives `scorer`."""

    clauses = SCORER_CLAUSES
    scorer: ClassVar[FidelityScorer]

    def bench(self) -> ScorerBench:
        """Return images and references for this scorer."""
        return ScorerBench(self.scorer)


def run_weights_contract(measure: BlockMetric | ConflictMeasure) -> list[Outcome]:
    """Return the name of every clause of the contract of metrics and measures with None or what is broken."""
    return outcomes(WEIGHTS_CLAUSES, partial(WeightsBench, measure))


def run_scorer_contract(scorer: FidelityScorer) -> list[Outcome]:
    """Return the name of every clause of the contract of fidelity scorers with None or what is broken."""
    return outcomes(SCORER_CLAUSES, partial(ScorerBench, scorer))
