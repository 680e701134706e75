"""Every built-in fusion method fulfils the contract, and the contract finds methods that do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from bwlab.adapters.attach import ActingLayers, ScaledLayer
from bwlab.adapters.layer import AdaptedLayer
from bwlab.cli.app import main
from bwlab.cli.generate import FUSION_HELP, fusion_names
from bwlab.fusion.builtin import FUSIONS
from bwlab.fusion.method import FusionMethod, FusionPlan, same_at_every_step
from bwlab.fusion.types import FusionType
from bwlab.plugins.manager import build_manager
from bwlab.testing import FusionContract, run_fusion_contract
from bwlab.testing.fusions import FUSION_CLAUSES, FusionBench, FusionClause

Plan = Callable[[ActingLayers], FusionPlan]


@pytest.mark.parametrize("clause", FUSION_CLAUSES, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("fusion_type", FUSIONS, ids=lambda fusion_type: fusion_type.name)
def test_a_built_in_method_fulfils_each_clause(fusion_type: FusionType, clause: FusionClause) -> None:
    clause(FusionBench(fusion_type))


class TestSwitch(FusionContract):
    fusion_type = build_manager().fusions()["switch"]


def test_the_kit_has_a_test_for_each_clause() -> None:
    tests = {name.removeprefix("test_") for name in vars(FusionContract) if name.startswith("test_")}
    assert tests == {clause.__name__ for clause in FUSION_CLAUSES}


def first_alone(layers: ActingLayers) -> FusionPlan:
    return same_at_every_step({path: [own[0]] for path, own in layers.items()})


def twice(layers: ActingLayers) -> FusionPlan:
    return same_at_every_step(layers, layers)


def without_scales(layers: ActingLayers) -> FusionPlan:
    return same_at_every_step(
        {path: [ScaledLayer(one.layer, 1.0, one.adapter) for one in own] for path, own in layers.items()}
    )


def batch_mean(path: str, output: Tensor, parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(0).mean(0, keepdim=True).expand_as(output)


def nowhere(layers: ActingLayers) -> FusionPlan:
    return same_at_every_step({})


@pytest.mark.parametrize(
    ("plan", "broken"),
    [
        (first_alone, {"order does not matter unless said"}),
        (twice, {"evaluations are those stated"}),
        (without_scales, {"adapters act"}),
        (lambda layers: same_at_every_step(layers, combine=batch_mean), {"samples are fused apart"}),
        (nowhere, {"adapters act"}),
    ],
)
def test_a_broken_method_is_found(plan: Plan, broken: set[str]) -> None:
    @dataclass(frozen=True)
    class Broken(FusionMethod):
        mixes_samples: ClassVar[bool] = True

        def plan(self, layers: ActingLayers, bases: Mapping[str, AdaptedLayer]) -> FusionPlan:
            return plan(layers)

    checks = run_fusion_contract(FusionType("broken", "x", lambda: Broken))
    assert {name for name, error in checks if error is not None} == broken


def test_a_wrong_number_of_evaluations_is_found() -> None:
    checks = dict(run_fusion_contract(replace(FUSIONS[0], evaluations="one for each adapter")))
    assert checks["evaluations are those stated"] == (
        "1 evaluations at step 0 with 3 adapters; evaluations='one for each adapter' says 3"
    )


def test_the_command_checks_fusion_methods(capsys: pytest.CaptureFixture[str]) -> None:
    for name, code in (("k-lora", 0), ("k-lore", 2)):
        with pytest.raises(SystemExit) as end:
            main(["plugins", "check", name])
        assert end.value.code == code
    shown = capsys.readouterr()
    assert "ok      one adapter alone is unchanged\n" in shown.out
    assert shown.out.endswith(f"fusion method k-lora: {len(FUSION_CLAUSES)} of {len(FUSION_CLAUSES)} checks hold\n")
    assert "a check of 'k-lore': no plugin registers it. Did you mean k-lora? " in shown.err


def test_help_and_completion_name_every_method() -> None:
    names = [fusion_type.name for fusion_type in FUSIONS]
    assert f": {', '.join(names)}, or one of a plugin" in FUSION_HELP
    assert fusion_names() == sorted(names)
