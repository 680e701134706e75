"""The reports as JSON documents: the tables' numbers, unrounded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from bwlab_analysis.conflict import ConflictReport, GroupConflict
from bwlab_analysis.norms import GroupNorms, NormsReport
from bwlab_analysis.registry import BlockMetric, ConflictMeasure, Measured
from bwlab_analysis.verdict import shares_initialisation, verdict
from bwlab_analysis.weights import LeftOut

SCHEMA_VERSION = 1
NORMS_VERSION = 2
"""2: `base`, `modules`, and `base_norm` and `relative` in every group."""

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


def norms_document(report: NormsReport) -> dict[str, Json]:
    """The report of `bwlab analyze norms`; shares are 0..1, norms those of the delta with its scale."""
    return {
        "schema": "bwlab.analyze.norms",
        "schema_version": NORMS_VERSION,
        "file": str(report.file),
        "base": report.base,
        "scheme": report.scheme,
        "metrics": _summaries(report.metrics),
        "blocks": [_norms(group) for group in report.blocks],
        "kinds": [_norms(group) for group in report.kinds],
        "cells": [_norms(group) for group in report.cells],
        "modules": [_norms(group) for group in report.modules],
        "total": _norms(report.total),
        "empty_blocks": list(report.empty_blocks),
        "left_out": _left_out(report.left_out),
    }


def conflict_document(report: ConflictReport) -> dict[str, Json]:
    """The report of `bwlab analyze conflict`; shares are 0..1, angles degrees, overlaps multiples of chance."""
    return {
        "schema": "bwlab.analyze.conflict",
        "schema_version": SCHEMA_VERSION,
        "a": str(report.file_a),
        "b": str(report.file_b),
        "scheme": report.scheme,
        "measures": _summaries(report.measures),
        "blocks": [_conflict(group) for group in report.blocks],
        "cells": [_conflict(group) for group in report.cells],
        "total": _conflict(report.total),
        "shared_share_a": report.shared_share_a,
        "shared_share_b": report.shared_share_b,
        "shared_initialisation": shares_initialisation(report.total),
        "verdict": list(verdict(report)),
        "left_out_a": _left_out(report.left_out_a),
        "left_out_b": _left_out(report.left_out_b),
    }


def _norms(group: GroupNorms) -> dict[str, Json]:
    return {
        "name": group.name,
        "modules": group.modules,
        "rank_min": group.ranks[0],
        "rank_max": group.ranks[1],
        "norm": group.norm,
        "energy_share": group.share,
        "base_norm": group.base_norm,
        "relative": group.relative,
        **measures_document(group.measures),
    }


def _conflict(group: GroupConflict) -> dict[str, Json]:
    return {
        "name": group.name,
        "modules_a": group.modules_a,
        "modules_b": group.modules_b,
        "shared": group.shared,
        "disjoint": group.disjoint,
        "energy_share_a": group.share_a,
        "energy_share_b": group.share_b,
        "joint_energy_share": group.joint_share,
        **measures_document(group.measures),
    }


def measures_document(measures: Mapping[str, Measured | None]) -> dict[str, Json]:
    """Measures by name, each with its scale; null where there is no answer."""
    return {name: None if measured is None else _measured(measured) for name, measured in measures.items()}


def _measured(measured: Measured) -> dict[str, Json]:
    scale = {"random": measured.random, "random_sd": measured.random_sd}
    known = {name: value for name, value in scale.items() if value is not None}
    return {"value": measured.value, **known, **measured.details}


def _summaries(measures: Iterable[BlockMetric | ConflictMeasure]) -> dict[str, Json]:
    return {measure.name: measure.summary for measure in measures}


def _left_out(parts: Iterable[LeftOut]) -> list[Json]:
    return [{"reason": part.reason, "keys": list(part.keys)} for part in parts]
