"""Deltas times a number, and told with one alpha, for every algorithm that LyCORIS writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bwlab.errors import BwlabError
from bwlab.formats.algorithms import ALGORITHMS
from bwlab.formats.modules import ModuleWeights, can_scale, scaled_module, with_alpha, with_one_alpha, with_unit_scale
from bwlab.formats.read import read_contents
from bwlab.formats.tensors import Numbers, in_dtype
from bwlab.linalg.factored import Array
from tests.formats.lycoris_made import CASES, PATHS, Case, made, write_case

IDS = [case.name for case in CASES]
FIXED = {"oft", "boft", "dora", "dora-tucker", "doha", "dokr"}


def modules(case: Case, folder: Path) -> list[tuple[ModuleWeights, Array]]:
    """Every module of a case with the weight of its base layer."""
    found = read_contents(write_case(case, folder)).modules
    named = {path: layer for layer, path in PATHS.items()}
    bases = {path: made(case, named[path])[0].get_parameter("weight").double().numpy() for path in found}
    return [(module, bases[path]) for path, module in found.items()]


def close(a: Numbers, b: Numbers) -> bool:
    return bool(np.abs(a - b).max() <= 2e-6 * np.abs(b).max())


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_scaled_module_has_a_scaled_delta(case: Case, tmp_path: Path) -> None:
    for module, base in modules(case, tmp_path):
        assert scaled_module(module, 1.0) is module
        assert can_scale(module) == (module.algorithm not in FIXED)
        if not can_scale(module):
            with pytest.raises(BwlabError, match="can only be kept or dropped whole"):
                scaled_module(module, 0.5)
            continue
        changed = scaled_module(module, -0.7)
        assert close(changed.delta(base), -0.7 * module.delta(base))
        bias, before = changed.bias_delta(), module.bias_delta()
        assert (bias is None) == (before is None)
        assert bias is None or before is None or close(bias, -0.7 * before)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_another_alpha_tells_the_same_delta(case: Case, tmp_path: Path) -> None:
    for module, base in modules(case, tmp_path):
        told = with_alpha(module, 1.7)
        assert told.alpha == (1.7 if module.rank() is not None else module.alpha)
        assert close(told.delta(base), module.delta(base))


def test_every_algorithm_is_tried() -> None:
    assert {case.algorithm for case in CASES} == set(ALGORITHMS)


def lora(rank: int, alpha: float | None, dtype: str = "F16") -> ModuleWeights:
    generator = np.random.default_rng(rank)
    up, down = (generator.standard_normal(shape).astype(np.float16) for shape in ((7, rank), (rank, 5)))
    leaves = {"lora_down.weight": in_dtype(down, dtype), "lora_up.weight": in_dtype(up, dtype)}
    return ModuleWeights("mid_block.attentions.0.proj_in", "lora", leaves, alpha)


def test_the_commonest_alpha_wins_and_the_rest_is_folded_exactly() -> None:
    before = [lora(2, 4.0), lora(3, 4.0), lora(4, 8.0), lora(5, 3.0), lora(6, None)]
    after = with_one_alpha(before)
    assert {module.alpha for module in after} == {4.0}
    assert after[0] is before[0]
    # Twice as much is a matter of the exponent; three quarters are not.
    assert [module.leaves["lora_up.weight"].dtype for module in after] == ["F16", "F16", "F16", "F32", "F32"]
    for old, new in zip(before, after, strict=True):
        assert close(new.delta(), old.delta())


def test_a_scale_of_one() -> None:
    module = with_unit_scale(lora(4, 2.0))
    assert module.scale() == 1.0
    assert close(module.delta(), lora(4, 2.0).delta())


@pytest.mark.parametrize("alpha", [0.0, float("nan"), float("inf")])
def test_a_senseless_alpha_is_an_error(alpha: float) -> None:
    with pytest.raises(BwlabError, match="alpha of mid_block"):
        with_one_alpha([lora(2, alpha)])
