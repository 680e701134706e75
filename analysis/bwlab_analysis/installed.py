"""The metrics and measures of all loaded plugins, with the built-in ones first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from bwlab.errors import BwlabError
from bwlab.plugins.discovery import reason
from bwlab.plugins.manager import PluginManager
from bwlab_analysis.measures import BlockMetric, ConflictMeasure, FidelityScorer

Measure = TypeVar("Measure", BlockMetric, ConflictMeasure, FidelityScorer)
Warn = Callable[[str], None]

OURS = "bwlab"


def block_metrics(manager: PluginManager, warn: Warn) -> list[BlockMetric]:
    """Return the block metrics; a plugin that fails is left out with one warning.

    Raises:
        BwlabError: two plugins give the same name.
    """
    return _unique(_given(manager, "bwlab_register_block_metrics", BlockMetric, warn))


def conflict_measures(manager: PluginManager, warn: Warn) -> list[ConflictMeasure]:
    """Return the conflict measures, with the same rules as `block_metrics`."""
    return _unique(_given(manager, "bwlab_register_conflict_measures", ConflictMeasure, warn))


def fidelity_scorers(manager: PluginManager, warn: Warn) -> list[FidelityScorer]:
    """Return the scorers that plugins add, with the same rules as `block_metrics`."""
    return _unique(_given(manager, "bwlab_register_fidelity_scorers", FidelityScorer, warn))


def _given(manager: PluginManager, hook: str, kind: type[Measure], warn: Warn) -> Iterator[tuple[str, Measure]]:
    for record, register in sorted(manager.each(hook), key=lambda pair: pair[0].distribution != OURS):
        try:
            given = [measure for measures in register() for measure in measures]
            if any(not isinstance(measure, kind) for measure in given):
                raise TypeError(f"{hook} returned something else than a list of {kind.__name__}")
        except Exception as error:  # foreign code: its errors must not stop the other measures
            warn(f"measures of plugin {record.name} of {record.source} are left out: {reason(error)}")
            continue
        yield from ((record.source, measure) for measure in given)


def _unique(given: Iterator[tuple[str, Measure]]) -> list[Measure]:
    owners: dict[str, str] = {}
    measures = []
    for source, measure in given:
        if measure.name in owners:
            found = f"registered by both {owners[measure.name]} and {source}"
            raise BwlabError(f"measure {measure.name!r}", found, "Uninstall one of them")
        owners[measure.name] = source
        measures.append(measure)
    return measures
