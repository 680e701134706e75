"""Measures of a pair from the activations of four variants."""

from __future__ import annotations

import pytest
import torch

from bwlab_analysis.activations.interaction import PairSums, pair_sums

GENERATOR = torch.Generator().manual_seed(0)
H0, A, B = (torch.randn(2, 3, 5, 7, generator=GENERATOR, dtype=torch.float64) for _ in range(3))


def test_effects_that_add_up_are_kept_whole() -> None:
    sums = pair_sums(H0, H0 + A, H0 + B, H0 + A + B)
    assert sums.effect_a == pytest.approx(float(A.norm() / H0.norm()))
    assert sums.effect_b == pytest.approx(float(B.norm() / H0.norm()))
    assert sums.alignment == pytest.approx(float((A * B).sum() / (A.norm() * B.norm())))
    assert sums.retention_a == pytest.approx(1)
    assert sums.retention_b == pytest.approx(1)
    assert sums.interaction == pytest.approx(0, abs=1e-7)


def test_one_that_wins_takes_all() -> None:
    sums = pair_sums(H0, H0 + A, H0 + B, H0 + A)
    assert sums.retention_b == pytest.approx(0, abs=1e-12)
    kept = float((A - B).flatten() @ A.flatten() / A.square().sum())
    assert sums.retention_a == pytest.approx(kept)


def test_a_reversed_effect_is_negative() -> None:
    sums = pair_sums(H0, H0 + A, H0 + B, H0 + B - A)
    assert sums.retention_a == pytest.approx(-1)


def test_identical_adapters_pull_together() -> None:
    sums = pair_sums(H0, H0 + A, H0 + A, H0 + 2 * A)
    assert sums.alignment == pytest.approx(1)
    assert sums.retention_a == pytest.approx(1)


def test_pieces_add_up_to_the_whole() -> None:
    whole = pair_sums(H0, H0 + A, H0 + B, H0 + A * B)
    pieces = [pair_sums(H0[i], (H0 + A)[i], (H0 + B)[i], (H0 + A * B)[i]) for i in range(2)]
    joined = pieces[0] + pieces[1]
    assert all(value == pytest.approx(vars(whole)[name]) for name, value in vars(joined).items())


def test_nothing_has_no_measure() -> None:
    nothing = PairSums()
    assert nothing.effect_a is nothing.alignment is nothing.retention_b is nothing.interaction is None
