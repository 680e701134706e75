"""The low-rank maths against dense float64, on prime shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import DTypeLike

from bwlab.linalg.factored import Array, FactoredMatrix
from bwlab.linalg.qr import thin_qr

NORM, COSINE, SPECTRUM, ANGLE = 1e-6, 1e-7, 1e-5, 1e-4

PRIMES = st.sampled_from([1, 2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37])
RANKS = st.sampled_from([1, 2, 3, 5, 7, 17, 19, 41])
SEEDS = st.integers(0, 2**32 - 1)


def factored(seed: int, out: int, rank: int, inner: int, scale: float = 1.0) -> FactoredMatrix:
    draw = np.random.default_rng(seed)
    return FactoredMatrix(scale * draw.standard_normal((out, rank)), draw.standard_normal((rank, inner)))


def dense_overlap(a: Array, b: Array) -> float:
    """Shared directions of two column spaces by dense SVD."""
    bases = []
    for matrix in (a, b):
        left, values, _ = np.linalg.svd(matrix, full_matrices=False)
        bases.append(left[:, values > values[0] * 1e-12])
    return float(np.linalg.norm(bases[0].T @ bases[1]) ** 2)


@given(seed=SEEDS, out=PRIMES, rank=RANKS, inner=PRIMES, scale=st.sampled_from([1e-12, 1.0, 1e9]))
@settings(max_examples=200, deadline=None)
def test_norm_and_spectrum_are_the_dense_ones(seed: int, out: int, rank: int, inner: int, scale: float) -> None:
    matrix = factored(seed, out, rank, inner, scale)
    dense = matrix.dense()
    values = np.linalg.svd(dense, compute_uv=False)[: min(out, rank, inner)]
    assert matrix.norm() == pytest.approx(np.linalg.norm(dense), rel=NORM)
    np.testing.assert_allclose(matrix.singular_values(), values, rtol=SPECTRUM, atol=SPECTRUM * 1e-6 * values[0])
    shares = values / values.sum()
    assert matrix.effective_rank() == pytest.approx(math.exp(-np.sum(shares * np.log(shares))), rel=SPECTRUM)
    assert matrix.top1_share() == pytest.approx(values[0] ** 2 / np.sum(values**2), rel=SPECTRUM)


@given(seed=SEEDS, out=PRIMES, ranks=st.tuples(RANKS, RANKS), inner=PRIMES)
@settings(max_examples=200, deadline=None)
def test_inner_cosine_and_overlaps_are_the_dense_ones(seed: int, out: int, ranks: tuple[int, int], inner: int) -> None:
    a, b = factored(seed, out, ranks[0], inner), factored(seed + 1, out, ranks[1], inner, 1e-3)
    dense_a, dense_b = a.dense(), b.dense()
    norms = np.linalg.norm(dense_a) * np.linalg.norm(dense_b)
    cosine = a.cosine(b)
    assert cosine is not None
    assert abs(a.inner(b) - np.sum(dense_a * dense_b)) <= COSINE * norms
    assert abs(cosine - np.sum(dense_a * dense_b) / norms) <= COSINE
    out_overlap, in_overlap = a.out_overlap(b), a.in_overlap(b)
    assert out_overlap is not None
    assert in_overlap is not None
    assert out_overlap.shared == pytest.approx(dense_overlap(dense_a, dense_b), abs=1e-8)
    assert in_overlap.shared == pytest.approx(dense_overlap(dense_a.T, dense_b.T), abs=1e-8)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("rank", [5, 37])
@pytest.mark.parametrize("mean", [0.0, 3.0])
@pytest.mark.parametrize("apart", [1e-3, 1.0])
def test_narrow_factors_give_the_numbers_of_their_product_in_float64(
    dtype: DTypeLike, rank: int, mean: float, apart: float
) -> None:
    """Large means make columns nearly parallel; a thousandth apart, both adapters are nearly the same."""
    draw = np.random.default_rng(0)
    ups, downs = draw.standard_normal((2, 101, rank)), mean + draw.standard_normal((2, rank, 2003))
    ups[1], downs[1] = (one[0] + apart * one[1] for one in (ups, downs))
    a, b = (FactoredMatrix(up.astype(dtype), down.astype(dtype), 0.3) for up, down in zip(ups, downs, strict=True))
    dense = [
        0.3 * (up.astype(dtype).astype(np.float64) @ down.astype(dtype).astype(np.float64))
        for up, down in zip(ups, downs, strict=True)
    ]
    norms = [float(np.linalg.norm(one)) for one in dense]
    assert a.cosine(b) == pytest.approx(np.sum(dense[0] * dense[1]) / (norms[0] * norms[1]), abs=COSINE * 1e-3)
    out_overlap, in_overlap = a.out_overlap(b), a.in_overlap(b)
    assert out_overlap is not None
    assert in_overlap is not None
    assert out_overlap.shared == pytest.approx(dense_overlap(*dense), rel=1e-7)
    assert in_overlap.shared == pytest.approx(dense_overlap(dense[0].T, dense[1].T), rel=1e-7)
    for matrix, whole, norm in zip((a, b), dense, norms, strict=True):
        alone = FactoredMatrix(matrix.up, matrix.down)
        assert matrix.norm() == pytest.approx(norm, rel=NORM * 1e-3)
        assert alone.norm() == pytest.approx(matrix.norm(), rel=1e-12)
        values = np.linalg.svd(whole, compute_uv=False)[:rank]
        np.testing.assert_allclose(matrix.singular_values(), values, rtol=SPECTRUM)
        np.testing.assert_allclose(matrix.dense(), whole, rtol=1e-9, atol=1e-9 * norm)


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


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-8, 1e-4, 0.3, 0.78, 1.2, math.pi / 2 - 1e-9, math.pi / 2])
def test_principal_angles_of_known_planes(angle: float) -> None:
    directions, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((101, 7)))
    other = math.cos(angle) * directions[:, 0] + math.sin(angle) * directions[:, 3]
    draw = np.random.default_rng(4)
    a = FactoredMatrix(directions[:, :3] @ draw.standard_normal((3, 3)), draw.standard_normal((3, 53)))
    b = FactoredMatrix(np.stack([other, directions[:, 5]], axis=1), draw.standard_normal((2, 53)))
    for angles in (a.principal_angles(b), b.principal_angles(a)):
        np.testing.assert_allclose(angles, [angle, math.pi / 2], atol=1e-12, rtol=1e-6)


@given(seed=SEEDS, out=st.sampled_from([23, 29, 31, 37]), ranks=st.tuples(RANKS, RANKS))
@settings(max_examples=100, deadline=None)
def test_principal_angles_are_the_dense_ones(seed: int, out: int, ranks: tuple[int, int]) -> None:
    a, b = factored(seed, out, ranks[0], 43), factored(seed + 1, out, ranks[1], 43)
    bases = [np.linalg.svd(m.dense(), full_matrices=False)[0][:, : m.rank()] for m in (a, b)]
    cosines = np.clip(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False), 0.0, 1.0)
    # Squared cosines are told apart from 1 only to 1e-15, so dense angles near 0 are good to 3e-8: within tolerance.
    np.testing.assert_allclose(a.principal_angles(b), np.arccos(cosines), atol=ANGLE)


@pytest.mark.parametrize("ranks", [(2, 3), (16, 16), (40, 40), (17, 33)])
@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 0.1, 0.2, 0.7])
def test_the_smallest_angle_is_the_first_of_the_principal_ones(angle: float, ranks: tuple[int, int]) -> None:
    draw = np.random.default_rng(6)
    directions, _ = np.linalg.qr(draw.standard_normal((211, 100)))
    own, others = directions[:, : ranks[0]], directions[:, 50 : 50 + ranks[1]].copy()
    others[:, 0] = math.cos(angle) * own[:, 1] + math.sin(angle) * others[:, 0]
    a = FactoredMatrix(own @ draw.standard_normal((ranks[0], ranks[0])), draw.standard_normal((ranks[0], 90)))
    b = FactoredMatrix(others @ draw.standard_normal((ranks[1], ranks[1])), draw.standard_normal((ranks[1], 90)))
    assert a.smallest_angle(b) == pytest.approx(angle, abs=1e-8)
    assert b.smallest_angle(a) == pytest.approx(angle, abs=1e-8)


def test_zero_matrices_have_no_direction() -> None:
    zero, matrix = FactoredMatrix(np.zeros((11, 3)), np.ones((3, 7))), factored(0, 11, 2, 7)
    assert zero.norm() == 0.0
    assert zero.rank() == 0
    assert zero.cosine(matrix) is None
    assert zero.effective_rank() is None
    assert zero.top1_share() is None
    assert zero.out_overlap(matrix) is None
    assert matrix.in_overlap(zero) is None
    assert zero.principal_angles(matrix).shape == (0,)
    assert zero.smallest_angle(matrix) is None


def test_factors_that_cancel_are_zero_and_nearly_cancelling_ones_stay_exact() -> None:
    draw = np.random.default_rng(1)
    up, down = draw.standard_normal((13, 2)), draw.standard_normal((2, 17))
    assert FactoredMatrix(np.hstack([up, -up]), np.vstack([down, down])).norm() == 0.0
    nearly = FactoredMatrix(np.hstack([up, -up]), np.vstack([down * (1 + 2**-20), down]))
    truth = FactoredMatrix(up, down * 2**-20)
    assert nearly.norm() == pytest.approx(truth.norm(), rel=NORM)
    assert nearly.cosine(truth) == pytest.approx(1.0, abs=COSINE)


def test_repeated_columns_do_not_raise_the_rank() -> None:
    a, b = factored(2, 19, 3, 23), factored(3, 19, 2, 23)
    doubled = FactoredMatrix(np.hstack([a.up, a.up]), np.vstack([a.down, 2 * a.down]))
    assert doubled.rank() == 3
    np.testing.assert_allclose(doubled.singular_values()[:3], 3 * a.singular_values(), rtol=SPECTRUM)
    plain, repeated = a.out_overlap(b), doubled.out_overlap(b)
    assert plain is not None
    assert repeated is not None
    assert repeated.rank_a == 3
    assert repeated.multiple == pytest.approx(plain.multiple, rel=1e-9)


def test_one_space_overlaps_itself_wholly() -> None:
    a = factored(4, 29, 3, 31)
    same_rows = FactoredMatrix(np.random.default_rng(9).standard_normal((29, 3)), a.down)
    overlap = a.in_overlap(same_rows)
    assert overlap is not None
    assert overlap.fraction == pytest.approx(1.0)
    assert overlap.chance == 3 / 31
    assert overlap.multiple == pytest.approx(31 / 3)


def test_random_subspaces_overlap_by_chance() -> None:
    overlaps = [factored(2 * s, 53, 5, 7).out_overlap(factored(2 * s + 1, 53, 3, 7)) for s in range(400)]
    assert np.mean([o.multiple for o in overlaps if o]) == pytest.approx(1.0, abs=0.05)


def test_scaling_transposing_and_shapes() -> None:
    a = factored(6, 11, 2, 13)
    assert a.shape == (11, 13)
    assert a.inner_rank == 2
    np.testing.assert_array_equal(a.T.dense(), a.dense().T)
    assert a.scaled(-2.0).norm() == pytest.approx(2 * a.norm())
    assert a.scaled(-2.0).cosine(a) == pytest.approx(-1.0)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(3, 5\)"):
        FactoredMatrix(np.ones((3, 2)), np.ones((3, 5)))
    with pytest.raises(ValueError, match="inner product"):
        factored(0, 3, 2, 5).inner(factored(0, 5, 2, 3))
    with pytest.raises(ValueError, match="overlap"):
        factored(0, 3, 2, 5).out_overlap(factored(0, 5, 2, 3))
