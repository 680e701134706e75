"""The metrics and measures of all loaded plugins, with the built-in ones first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from bwlab.errors import BwlabError
from bwlab.plugins.discovery import OURS, reason
from bwlab.plugins.manager import PluginManager
from bwlab_analysis.measures import BlockMetric, ConflictMeasure, FidelityScorer

Measure = TypeVar("Measure", BlockMetric, ConflictMeasure, FidelityScorer)
Warn = Callable[[str], None]


def block_metrics(manager: PluginManager, warn: Warn) -> list[BlockMetric]:
    """Return the block metrics; a plugin that fails is left out with one warning, and so is a name that is taken."""
    return _unique(_given(manager, "bwlab_register_block_metrics", BlockMetric, warn), warn)


def conflict_measures(manager: PluginManager, warn: Warn) -> list[ConflictMeasure]:
    """Return the conflict measures, with the same rules as `block_metrics`."""
    return _unique(_given(manager, "bwlab_register_conflict_measures", ConflictMeasure, warn), warn)


def fidelity_scorers(
    manager: PluginManager, warn: Warn, built_in: Sequence[FidelityScorer] = ()
) -> list[FidelityScorer]:
    """Return the built-in scorers and those that plugins add, with the same rules as `block_metrics`."""
    added = _given(manager, "bwlab_register_fidelity_scorers", FidelityScorer, warn)
    return _unique(itertools.chain(built_in, added), warn)


def _given(manager: PluginManager, hook: str, kind: type[Measure], warn: Warn) -> Iterator[Measure]:
    for record, register in sorted(manager.each(hook), key=lambda pair: pair[0].distribution != OURS):
        owner = f"plugin {record.name} of {record.source}"
        try:
            given = [measure for measures in register() for measure in measures]
            if any(not isinstance(measure, kind) for measure in given):
                raise TypeError(f"{hook} returned something other than a list of {kind.__name__}")
        except (Exception, SystemExit) as error:  # foreign code: its errors must not stop the other measures
            warn(f"measures of {owner} are left out: {reason(error)}")
            continue
        yield from (replace(measure, owner=owner) for measure in given)


def _unique(given: Iterable[Measure], warn: Warn) -> list[Measure]:
    measures: dict[str, Measure] = {}
    for measure in given:
        if measure.name in measures:
            found = f"the name is taken by {measures[measure.name].owner or OURS}, so it is left out"
            fix = "Rename it, or uninstall one of the two"
            warn(str(BwlabError(f"measure {measure.name!r} of {measure.owner}", found, fix)))
        else:
            measures[measure.name] = measure
    return list(measures.values())
