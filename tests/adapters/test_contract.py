"""The built-in types pass the shared contract, and broken types do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

import bwlab_locon.plugin
import bwlab_lora.plugin
from bwlab.adapters.layer import BaseLayer
from bwlab.adapters.types import AdapterType
from bwlab.testing import AdapterContract, run_contract, skipped_shapes
from bwlab_lora.layer import LoraLayer

LORA = bwlab_lora.plugin.bwlab_register_adapters()[0]
LOCON = bwlab_locon.plugin.bwlab_register_adapters()[0]


class TestLora(AdapterContract):
    """LoRA."""

    adapter_type = LORA


class TestLocon(AdapterContract):
    """LoCon."""

    adapter_type = LOCON


class Forgetful(LoraLayer):
    """Drops alpha when it is read back."""

    @classmethod
    def from_tensors(cls, layer: BaseLayer, tensors: Mapping[str, Tensor]) -> Self:
        return super().from_tensors(layer, {leaf: value for leaf, value in tensors.items() if leaf != "alpha"})


class Loud(LoraLayer):
    """Changes the output from the start, says another delta than it adds, and swallows options."""

    @classmethod
    def create(
        cls, layer: BaseLayer, rank: int, alpha: float, generator: torch.Generator | None, **options: object
    ) -> Self:
        made = super().create(layer, rank, alpha, generator)
        torch.nn.init.ones_(made.up)
        return made

    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        return super().delta(base_weight).flip(0)


class Stuck(LoraLayer):
    """No gradient comes to `down`."""

    def forward(self, x: Tensor, base_output: Tensor) -> Tensor:
        return torch.nn.functional.linear(x @ self.down.detach().T, self.up) * self.scale


def broken_clauses(adapter_type: AdapterType) -> dict[str, str]:
    return {name.split(" (")[0]: error for name, error in run_contract(adapter_type) if error is not None}


def linear_only(layer_class: type[LoraLayer]) -> AdapterType:
    return replace(LORA, load=lambda: layer_class, targets=lambda path, kind: kind == "linear")


def test_run_contract_reports_every_clause_of_a_good_type() -> None:
    results = run_contract(LOCON)
    tests = {name.removeprefix("test_").replace("_", " ") for name in dir(AdapterContract) if name.startswith("test_")}
    assert {name for name, _ in results} == tests
    assert [error for _, error in results if error] == []


def test_lora_skips_the_larger_convolutions_and_says_so() -> None:
    assert skipped_shapes(LORA) == ("Conv2d(5, 13, 3)", "Conv2d(5, 13, 3, stride=2)")
    assert skipped_shapes(LOCON) == ()
    left_out = "delta is the weight change (Conv2d(5, 13, 3), Conv2d(5, 13, 3, stride=2) left out: not adapted)"
    assert (left_out, None) in run_contract(LORA)


def test_a_type_that_drops_alpha_fails() -> None:
    assert {"tensors round trip", "alpha is honoured"} == set(broken_clauses(linear_only(Forgetful)))


def test_a_type_that_is_no_no_op_and_takes_any_option_fails() -> None:
    broken = broken_clauses(linear_only(Loud))
    assert {"fresh adapter is a no op", "unknown options are refused"} <= set(broken)
    assert {"delta is the weight change", "file means the delta"} <= set(broken)


def test_a_type_with_an_untrained_parameter_fails() -> None:
    broken = broken_clauses(linear_only(Stuck))
    assert "down" in broken["gradients reach every parameter"]


def test_a_type_that_adapts_nothing_is_told_so() -> None:
    broken = broken_clauses(replace(LORA, targets=lambda path, kind: False))
    assert len(broken) == len(run_contract(LORA))
    assert all("adapts none of Linear(7, 11)" in error for error in broken.values())


def test_a_type_that_raises_is_reported_by_its_error() -> None:
    def load() -> type[LoraLayer]:
        raise ImportError("no module named foo")

    assert set(broken_clauses(replace(LORA, load=load)).values()) == {"ImportError: no module named foo"}
