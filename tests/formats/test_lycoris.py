"""Every algorithm against LyCORIS' own code: files of its modules are read, and their deltas are its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bwlab.errors import BwlabError
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.read import read_contents
from tests.formats.lycoris_made import CASES, INPUTS, PATHS, Case, layers_of, write_case

# LyCORIS 4.1.3 applies alpha / rank twice where it merges these two, and once where it trains; training is what counts.
MERGES_WRONGLY = ("loha", "lokr", "doha", "dokr")


def weight_of(base: nn.Module) -> np.ndarray:
    values: np.ndarray = base.get_parameter("weight").detach().numpy()
    return values


def output(base: nn.Module, module: ModuleWeights, x: torch.Tensor) -> torch.Tensor:
    """Return what the layer gives with its weight and bias changed."""
    weight = base.get_parameter("weight") + torch.from_numpy(module.delta(weight_of(base)))
    added = module.bias_delta()
    bias = base.get_parameter("bias") + (0 if added is None else torch.from_numpy(added))
    weight, bias = weight.to(x), bias.to(x)
    if isinstance(base, nn.Linear):
        return F.linear(x, weight, bias)
    if isinstance(base, nn.Conv2d):
        return F.conv2d(x, weight, bias, base.stride, base.padding)
    if isinstance(base, nn.GroupNorm):
        return F.group_norm(x, base.num_groups, weight, bias, base.eps)
    assert isinstance(base, nn.LayerNorm)
    return F.layer_norm(x, base.normalized_shape, weight, bias, base.eps)


def assert_near(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-6) -> None:
    """Largest difference within `tolerance` of the largest number."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_layer_gives_what_it_gives_with_lycoris(case: Case, tmp_path: Path) -> None:
    contents = read_contents(write_case(case, tmp_path))
    assert contents.unknown == ()
    for layer, (base, lycoris) in layers_of(case).items():
        module = contents.modules[PATHS[layer]]
        assert module.algorithm == case.algorithm
        x = torch.randn(INPUTS[layer], generator=torch.Generator().manual_seed(3)).to(case.dtype)
        assert_near(output(base, module, x).numpy(), lycoris(x).numpy())


@pytest.mark.parametrize("case", [case for case in CASES if case.algorithm not in MERGES_WRONGLY], ids=lambda c: c.name)
def test_the_delta_is_that_of_lycoris_merging(case: Case, tmp_path: Path) -> None:
    contents = read_contents(write_case(case, tmp_path))
    for layer, (base, lycoris) in layers_of(case).items():
        delta = contents.modules[PATHS[layer]].delta(weight_of(base))
        merged = lycoris.get_merged_weight(1.0, weight_of(base).shape)[0]
        assert_near(weight_of(base) + delta, merged.numpy())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_float32_is_near_float64(case: Case, tmp_path: Path) -> None:
    contents = read_contents(write_case(case, tmp_path))
    for layer, (base, _) in layers_of(case).items():
        module, weight = contents.modules[PATHS[layer]], weight_of(base)
        single = module.delta(weight, np.float32)
        assert single.dtype == np.float32
        assert_near(single, module.delta(weight), 1e-4)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_factors_are_the_delta(case: Case, tmp_path: Path) -> None:
    contents = read_contents(write_case(case, tmp_path))
    for layer, (base, _) in layers_of(case).items():
        module = contents.modules[PATHS[layer]]
        factors = module.factors()
        if case.algorithm in ("lora", "tucker"):
            assert factors is not None
        if factors is not None:
            weight = weight_of(base)
            delta = module.delta(weight)
            assert factors.shape == (len(delta), delta.size // len(delta))
            np.testing.assert_allclose(factors.dense().reshape(delta.shape), delta, rtol=0, atol=1e-12)


def test_low_rank_kronecker_and_hadamard_products_have_factors(tmp_path: Path) -> None:
    named = {case.name: case for case in CASES}
    for name, algorithm in (("lokr of two pairs", "lokr"), ("loha", "loha")):
        module = read_contents(write_case(named[name], tmp_path)).modules[PATHS["conv3"]]
        assert (module.algorithm, module.factors() is not None) == (algorithm, True)


def test_without_the_base_weight_what_needs_none_is_told_flat_or_whole(tmp_path: Path) -> None:
    for case in CASES:
        modules = read_contents(write_case(case, tmp_path)).modules
        for layer, (base, _) in layers_of(case).items():
            module = modules[PATHS[layer]]
            if module.needs_base:
                with pytest.raises(BwlabError, match="in proportion to itself, and no base model was given"):
                    module.delta()
            else:
                assert module.shape == module.delta().shape
                np.testing.assert_array_equal(module.delta().ravel(), module.delta(weight_of(base)).ravel())


def test_a_base_weight_of_another_shape_is_an_error(tmp_path: Path) -> None:
    for case in CASES:
        for module in read_contents(write_case(case, tmp_path)).modules.values():
            with pytest.raises(BwlabError, match=f"{module.algorithm} of .*another architecture"):
                module.delta(np.zeros((17, 19)))
