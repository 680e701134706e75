"""The hooks that the analysis adds; measures that plugins register appear in its tables and JSON automatically."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bwlab.plugins.hookspecs import hookspec

if TYPE_CHECKING:
    from bwlab_analysis.measures import BlockMetric, ConflictMeasure, FidelityScorer


@hookspec
def bwlab_register_block_metrics() -> list[BlockMetric]:  # type: ignore[empty-body]
    """Return numbers about one adapter's weights; each is a column of `bwlab analyze norms`."""


@hookspec
def bwlab_register_conflict_measures() -> list[ConflictMeasure]:  # type: ignore[empty-body]
    """Return numbers about two adapters' weights; each is a column of `bwlab analyze conflict`."""


@hookspec
def bwlab_register_fidelity_scorers() -> list[FidelityScorer]:  # type: ignore[empty-body]
    """Return scorers of generated images against reference images."""
