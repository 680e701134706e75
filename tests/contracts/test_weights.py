"""The contract of metrics and conflict measures: the built-in ones fulfil it, and it finds those that break it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bwlab.linalg.factored import Spectrum
from bwlab.linalg.pair import FactorPair
from bwlab_analysis import analyze
from bwlab_analysis.measures import BlockMetric, ConflictMeasure, Measured, Parts
from bwlab_analysis.testing import ConflictContract, MetricContract, run_weights_contract
from bwlab_analysis.testing.weights import TAKEN, WEIGHTS_CLAUSES
from bwlab_analysis.weights.norms import EFFECTIVE_RANK, TOP1_SHARE
from bwlab_analysis.weights.pair_measures import ANGLE, COSINE, IN_OVERLAP, OUT_OVERLAP, SIGN_CONFLICT
from tests.analysis.kohya import adapter_tensors, write

BUILT_IN = (EFFECTIVE_RANK, TOP1_SHARE, COSINE, OUT_OVERLAP, IN_OVERLAP, ANGLE, SIGN_CONFLICT)
CALLS = itertools.count()
FINITE, EXTREME, SAME = "values are finite", "extreme modules raise nothing", "the same modules give the same value"
ORDER, FACTORS = "the order of modules does not matter", "the factors do not matter"


@pytest.mark.parametrize("measure", BUILT_IN, ids=lambda measure: measure.name)
def test_a_built_in_measure_fulfils_each_clause(measure: BlockMetric | ConflictMeasure) -> None:
    assert [(clause, error) for clause, error in run_weights_contract(measure) if error] == []


class TestRank(MetricContract):
    metric = EFFECTIVE_RANK


class TestCosine(ConflictContract):
    measure = COSINE


@pytest.mark.parametrize("contract", [MetricContract, ConflictContract])
def test_the_kit_has_a_test_for_each_clause(contract: type) -> None:
    tests = {name.removeprefix("test_") for name in vars(contract) if name.startswith("test_")}
    assert tests == {clause.__name__ for clause in WEIGHTS_CLAUSES}


def norm_of(delta: Spectrum) -> Parts:
    return {"energy": delta.norm() ** 2}


def total(modules: Sequence[Parts]) -> Measured:
    return Measured(float(np.sqrt(sum(parts["energy"] for parts in modules))))


def dividing(delta: Spectrum) -> Parts:
    """Raise for a zero delta."""
    return {"energy": float(delta.singular_values()[0]) / float(delta.norm())}


def nan_of_zero(delta: Spectrum) -> Parts:
    with np.errstate(invalid="ignore"):
        return {"energy": float(np.float64(0.0 if delta.norm() else np.nan))}


def scaling(delta: Spectrum) -> Parts:
    np.multiply(delta.matrix.up_factor, 2.0, out=delta.matrix.up_factor)
    return norm_of(Spectrum(delta.matrix))


def counting(delta: Spectrum) -> Parts:
    return {"energy": float(next(CALLS))}


def of_the_file(delta: Spectrum) -> Parts:
    """Take the size of the factor for that of the delta."""
    return {"energy": float(np.square(delta.matrix.up).sum())}


def wide(delta: Spectrum) -> Parts:
    """Take the width of the factors for the rank."""
    return {"energy": float(delta.matrix.inner_rank)}


def dense(delta: Spectrum) -> Parts:
    return {"energy": float(np.square(delta.matrix.dense()).sum())}


def first(modules: Sequence[Parts]) -> Measured:
    return Measured(modules[0]["energy"])


METRIC = BlockMetric("own", "own", norm_of, total)


@pytest.mark.parametrize(
    ("changes", "clauses"),
    [
        ({}, set()),
        ({"name": "own metric"}, {"its name can be a column"}),
        ({"name": "energy_share"}, {"its name can be a column"}),
        ({"summary": ""}, {"its name can be a column"}),
        ({"of_block": lambda modules: Measured(float("nan"))}, {FINITE, EXTREME, ORDER, FACTORS, SAME}),
        ({"of_block": lambda modules: Measured(1.0, random=float("inf"))}, {FINITE, EXTREME, ORDER, FACTORS, SAME}),
        ({"of_block": lambda modules: None}, {FINITE}),
        ({"of_module": lambda delta: [1.0]}, {FINITE, EXTREME, ORDER, FACTORS, SAME}),
        ({"of_module": dividing}, {EXTREME}),
        ({"of_module": nan_of_zero}, {EXTREME}),
        ({"of_module": scaling}, {"inputs are left as they were", SAME, ORDER, FACTORS}),
        ({"of_module": counting}, {SAME, ORDER, FACTORS}),
        ({"of_block": first}, {ORDER}),
        ({"of_module": of_the_file}, {FACTORS}),
        ({"of_module": wide}, {FACTORS}),
        ({"of_module": dense}, {"nothing is multiplied out"}),
    ],
)
def test_a_broken_metric_is_found(changes: dict[str, Any], clauses: set[str]) -> None:
    assert {clause for clause, error in run_weights_contract(replace(METRIC, **changes)) if error} == clauses


def inner(pair: FactorPair) -> Parts:
    return {"energy": pair.inner**2}


def ratio(pair: FactorPair) -> Parts:
    return {"energy": pair.a.norm() / pair.b.norm()}


def dense_pair(pair: FactorPair) -> Parts:
    return {"energy": float(np.vdot(pair.a.matrix.dense(), pair.b.matrix.dense())) ** 2}


MEASURE = ConflictMeasure("own", "own", inner, total)


@pytest.mark.parametrize(
    ("changes", "clauses"),
    [
        ({}, set()),
        ({"name": "joint_energy_share"}, {"its name can be a column"}),
        ({"of_pair": ratio}, {EXTREME}),
        ({"of_pair": lambda pair: {"energy": float(next(CALLS))}}, {SAME, ORDER, FACTORS}),
        ({"of_pair": lambda pair: of_the_file(pair.b)}, {FACTORS}),
        ({"of_block": first}, {ORDER}),
        ({"of_pair": dense_pair}, {"nothing is multiplied out"}),
        ({"of_pair": dense_pair, "slow": True}, set()),
    ],
)
def test_a_broken_conflict_measure_is_found(changes: dict[str, Any], clauses: set[str]) -> None:
    assert {clause for clause, error in run_weights_contract(replace(MEASURE, **changes)) if error} == clauses


def test_the_reason_is_given() -> None:
    checks = dict(run_weights_contract(replace(METRIC, of_module=dividing)))
    assert checks[EXTREME] == "a zero delta: ZeroDivisionError: float division by zero"
    checks = dict(run_weights_contract(replace(METRIC, of_module=dense)))
    assert str(checks["nothing is multiplied out"]).startswith("a module of 3001 x 2003 and rank 3 takes ")


def test_every_key_of_the_tables_is_taken(tmp_path: Path) -> None:
    """A measure of such a name would replace the number in the JSON."""
    files = [write(tmp_path / f"{seed}.safetensors", adapter_tensors(seed)) for seed in range(2)]
    for document in (analyze.norms(files[0]).document(), analyze.conflict(*files).document()):
        groups: Any = document["blocks"]
        assert groups[0].keys() - {measure.name for measure in BUILT_IN} <= TAKEN
