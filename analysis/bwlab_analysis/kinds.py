"""The kinds of plugins of the analysis, with their contracts; light to import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bwlab.plugins.kinds import CheckOptions, PluginKind

if TYPE_CHECKING:
    from bwlab.testing.contract import Outcome


def check_weights(given: Sequence[Any], options: CheckOptions) -> list[Outcome]:
    """Return the outcome of each clause for a block metric or a conflict measure."""
    from bwlab_analysis.testing import run_weights_contract

    return run_weights_contract(given[0])


def check_scorer(given: Sequence[Any], options: CheckOptions) -> list[Outcome]:
    """Return the outcome of each clause for a fidelity scorer."""
    from bwlab_analysis.testing import run_scorer_contract

    return run_scorer_contract(given[0])


OURS = "bwlab_analysis"
ANALYSIS_KINDS = (
    PluginKind("conflict", "conflict measure", "bwlab_register_conflict_measures", check_weights, OURS),
    PluginKind("metric", "block metric", "bwlab_register_block_metrics", check_weights, OURS),
    PluginKind("scorer", "fidelity scorer", "bwlab_register_fidelity_scorers", check_scorer, OURS),
)
