"""A low-rank matrix and its spectrum against dense float64, on prime shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bwlab.linalg.factored import FactoredMatrix, Spectrum
from bwlab.linalg.pair import FactorPair
from bwlab.linalg.qr import thin_qr
from tests.linalg.draws import COSINE, NORM, PRIMES, RANKS, SEEDS, SPECTRUM, factored


@given(seed=SEEDS, out=PRIMES, rank=RANKS, inner=PRIMES, scale=st.sampled_from([1e-12, 1.0, 1e9]))
@settings(max_examples=200)
def test_norm_and_spectrum_are_the_dense_ones(seed: int, out: int, rank: int, inner: int, scale: float) -> None:
    matrix = factored(seed, out, rank, inner, scale)
    dense = matrix.dense()
    values = np.linalg.svd(dense, compute_uv=False)[: min(out, rank, inner)]
    assert matrix.norm() == pytest.approx(np.linalg.norm(dense), rel=NORM)
    np.testing.assert_allclose(matrix.singular_values(), values, rtol=SPECTRUM, atol=SPECTRUM * 1e-6 * values[0])
    shares = values / values.sum()
    assert Spectrum(matrix).effective_rank() == pytest.approx(math.exp(-np.sum(shares * np.log(shares))), rel=SPECTRUM)
    assert Spectrum(matrix).top1_share() == pytest.approx(values[0] ** 2 / np.sum(values**2), rel=SPECTRUM)


@pytest.mark.parametrize("rank", [3, 17, 67])
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-7])
def test_spectra_keep_their_tolerance_on_badly_conditioned_factors(rank: int, spread: float) -> None:
    draw = np.random.default_rng(rank)
    columns = np.logspace(0, math.log10(spread), rank)
    left, _ = np.linalg.qr(draw.standard_normal((211, rank)))
    right, _ = np.linalg.qr(draw.standard_normal((499, rank)))
    mixing, _ = np.linalg.qr(draw.standard_normal((rank, rank)))
    matrix = FactoredMatrix((left * columns) @ mixing, mixing.T @ right.T)
    np.testing.assert_allclose(matrix.singular_values(), columns, rtol=SPECTRUM)


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6, 1e12])
def test_thin_qr_is_orthonormal_and_exact_for_any_condition(condition: float) -> None:
    draw = np.random.default_rng(5)
    left, _ = np.linalg.qr(draw.standard_normal((503, 37)))
    right, _ = np.linalg.qr(draw.standard_normal((37, 37)))
    matrix = (left * np.logspace(0, -math.log10(condition), 37)) @ right
    basis, triangle = thin_qr(matrix)
    assert np.abs(basis.T @ basis - np.eye(37)).max() < 1e-13
    assert np.abs(basis @ triangle - matrix).max() < 1e-13


def test_zero_matrices_have_no_direction() -> None:
    zero, matrix = FactoredMatrix(np.zeros((11, 3)), np.ones((3, 7))), factored(0, 11, 2, 7)
    assert zero.norm() == 0.0
    assert Spectrum(zero).rank() == 0
    assert FactorPair(zero, matrix).cosine is None
    assert Spectrum(zero).effective_rank() is None
    assert Spectrum(zero).top1_share() is None
    assert FactorPair(zero, matrix).out_overlap is None
    assert FactorPair(matrix, zero).in_overlap is None
    assert FactorPair(zero, matrix).principal_angles().shape == (0,)
    assert FactorPair(zero, matrix).smallest_angle is None


def test_factors_that_cancel_are_zero_and_nearly_cancelling_ones_stay_exact() -> None:
    draw = np.random.default_rng(1)
    up, down = draw.standard_normal((13, 2)), draw.standard_normal((2, 17))
    assert FactoredMatrix(np.hstack([up, -up]), np.vstack([down, down])).norm() == 0.0
    nearly = FactoredMatrix(np.hstack([up, -up]), np.vstack([down * (1 + 2**-20), down]))
    truth = FactoredMatrix(up, down * 2**-20)
    assert nearly.norm() == pytest.approx(truth.norm(), rel=NORM)
    assert FactorPair(nearly, truth).cosine == pytest.approx(1.0, abs=COSINE)


def test_repeated_columns_do_not_raise_the_rank() -> None:
    a, b = factored(2, 19, 3, 23), factored(3, 19, 2, 23)
    doubled = FactoredMatrix(np.hstack([a.up, a.up]), np.vstack([a.down, 2 * a.down]))
    assert Spectrum(doubled).rank() == 3
    np.testing.assert_allclose(doubled.singular_values()[:3], 3 * a.singular_values(), rtol=SPECTRUM)
    plain, repeated = FactorPair(a, b).out_overlap, FactorPair(doubled, b).out_overlap
    assert plain is not None
    assert repeated is not None
    assert repeated.rank_a == 3
    assert repeated.multiple == pytest.approx(plain.multiple, rel=1e-9)


def test_scaling_transposing_and_shapes() -> None:
    a = factored(6, 11, 2, 13)
    assert a.shape == (11, 13)
    assert a.inner_rank == 2
    np.testing.assert_array_equal(a.T.dense(), a.dense().T)
    assert a.scaled(-2.0).norm() == pytest.approx(2 * a.norm())
    assert FactorPair(a.scaled(-2.0), a).cosine == pytest.approx(-1.0)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(3, 5\)"):
        FactoredMatrix(np.ones((3, 2)), np.ones((3, 5)))
    with pytest.raises(ValueError, match=r"no comparison of matrices of the shapes \(3, 5\) and \(5, 3\)"):
        FactorPair(factored(0, 3, 2, 5), factored(0, 5, 2, 3))
