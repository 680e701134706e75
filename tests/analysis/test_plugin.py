"""Measures of other plugins appear in tables and JSON; those that fail cost one warning."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

import bwlab_analysis.plugin
from bwlab.linalg.factored import Spectrum
from bwlab.plugins.hookspecs import hookimpl
from bwlab.plugins.manager import PluginManager, build_manager
from bwlab_analysis.installed import block_metrics, conflict_measures
from bwlab_analysis.measures import BlockMetric, ConflictMeasure, FidelityScorer, Measured
from bwlab_analysis.report.conflict import present_conflict
from bwlab_analysis.report.documents import conflict_document, norms_document
from bwlab_analysis.report.norms import present_norms
from bwlab_analysis.report.show import print_presentation
from bwlab_analysis.weights.conflict import measure_conflict
from bwlab_analysis.weights.norms import measure_norms
from tests.analysis.kohya import SHAPES, adapter_tensors, write

NUCLEAR = BlockMetric(
    "nuclear_norm",
    "sum of the singular values",
    lambda delta: {"sum": float(delta.singular_values().sum())},
    lambda modules: Measured(sum(parts["sum"] for parts in modules)),
)
PRODUCT = ConflictMeasure(
    "modules_met",
    "how many modules both change",
    lambda pair: {},
    lambda modules: Measured(float(len(modules)), random=3.0, random_sd=0.5),
)


class Another:
    """A plugin with measures and a scorer."""

    @hookimpl
    def bwlab_register_block_metrics(self) -> list[BlockMetric]:
        return [NUCLEAR]

    @hookimpl
    def bwlab_register_conflict_measures(self) -> list[ConflictMeasure]:
        return [PRODUCT]

    @hookimpl
    def bwlab_register_fidelity_scorers(self) -> list[FidelityScorer]:
        return [FidelityScorer("same", "style", "always 1", lambda: lambda images, references: [1.0] * len(images))]


class Failing:
    """A plugin whose hooks raise, or give something else."""

    @hookimpl
    def bwlab_register_block_metrics(self) -> list[BlockMetric]:
        raise ValueError("not today")

    @hookimpl
    def bwlab_register_conflict_measures(self) -> list[object]:
        return ["cosine"]


def manager_of(*plugins: object) -> PluginManager:
    manager = build_manager(plugins=[bwlab_analysis.plugin, *plugins], installed=False)
    assert manager.failed == []
    return manager


def no_warning(message: str) -> None:
    raise AssertionError(message)


def test_the_analysis_adds_its_hooks_and_registers_its_own_measures_through_them() -> None:
    manager = manager_of()
    assert [metric.name for metric in block_metrics(manager, no_warning)] == ["effective_rank", "top1_share"]
    names = [measure.name for measure in conflict_measures(manager, no_warning)]
    assert names == ["cosine", "out_overlap", "in_overlap", "smallest_angle", "sign_conflict"]


def test_scorers_are_collected() -> None:
    manager = manager_of(Another())
    ((scorer,),) = manager.hook.bwlab_register_fidelity_scorers()
    assert scorer.load()(["picture"], []) == [1.0]


def test_foreign_measures_appear_by_themselves(tmp_path: Path) -> None:
    manager = manager_of(Another())
    file = write(tmp_path / "a.safetensors", adapter_tensors(0))
    norms = measure_norms(file, block_metrics(manager, no_warning))
    conflict = measure_conflict(file, file, conflict_measures(manager, no_warning))
    console = Console(record=True, width=100)
    print_presentation(console, present_norms(norms))
    print_presentation(console, present_conflict(conflict, None))
    text = console.export_text()
    assert "nuclear norm" in text
    assert f"{len(SHAPES)} (3 +- 0.5)" in text
    assert "…" not in text
    assert norms_document(norms)["metrics"] == {metric.name: metric.summary for metric in norms.metrics}
    total = conflict_document(conflict)["total"]
    assert isinstance(total, dict)
    assert total["modules_met"] == {"value": float(len(SHAPES)), "random": 3.0, "random_sd": 0.5}


def test_a_failing_plugin_costs_one_warning() -> None:
    manager, warnings = manager_of(Failing()), list[str]()
    assert [metric.name for metric in block_metrics(manager, warnings.append)] == ["effective_rank", "top1_share"]
    assert len(conflict_measures(manager, warnings.append)) == 5
    assert len(warnings) == 2
    assert "ValueError: not today" in warnings[0]
    assert "something other than a list of ConflictMeasure" in warnings[1]


def test_of_one_name_given_twice_the_first_is_kept() -> None:
    class Second:
        @hookimpl
        def bwlab_register_block_metrics(self) -> list[BlockMetric]:
            return [BlockMetric("effective_rank", "mine", lambda delta: None, lambda modules: None)]

    warnings = list[str]()
    names = [metric.name for metric in block_metrics(manager_of(Second()), warnings.append)]
    assert sorted(names) == ["effective_rank", "top1_share"]
    assert len(warnings) == 1
    assert "measure 'effective_rank' of plugin" in warnings[0]
    assert "the name is taken by plugin" in warnings[0]


def test_a_metric_sees_the_delta_with_its_scale(tmp_path: Path) -> None:
    seen: list[Spectrum] = []
    spy = BlockMetric("spy", "", lambda delta: seen.append(delta), lambda modules: None)
    measure_norms(write(tmp_path / "a.safetensors", adapter_tensors(0)), [spy])
    measure_norms(write(tmp_path / "b.safetensors", adapter_tensors(0, alpha=4.0)), [spy])
    assert seen[len(SHAPES)].norm() == pytest.approx(2 * seen[0].norm())
