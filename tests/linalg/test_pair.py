"""Two low-rank matrices compared against dense float64, on prime shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import DTypeLike

from bwlab.linalg.factored import FactoredMatrix, Spectrum
from bwlab.linalg.pair import FactorPair
from bwlab.linalg.qr import Array
from tests.linalg.draws import ANGLE, COSINE, NORM, PRIMES, RANKS, SEEDS, SPECTRUM, factored


def dense_overlap(a: Array, b: Array) -> float:
    """Shared directions of two column spaces by dense SVD."""
    bases = []
    for matrix in (a, b):
        left, values, _ = np.linalg.svd(matrix, full_matrices=False)
        bases.append(left[:, values > values[0] * 1e-12])
    return float(np.linalg.norm(bases[0].T @ bases[1]) ** 2)


@given(seed=SEEDS, out=PRIMES, ranks=st.tuples(RANKS, RANKS), inner=PRIMES)
@settings(max_examples=200)
def test_inner_cosine_and_overlaps_are_the_dense_ones(seed: int, out: int, ranks: tuple[int, int], inner: int) -> None:
    a, b = factored(seed, out, ranks[0], inner), factored(seed + 1, out, ranks[1], inner, 1e-3)
    dense_a, dense_b = a.dense(), b.dense()
    norms = np.linalg.norm(dense_a) * np.linalg.norm(dense_b)
    pair = FactorPair(a, b)
    cosine = pair.cosine
    assert cosine is not None
    assert abs(pair.inner - np.sum(dense_a * dense_b)) <= COSINE * norms
    assert abs(cosine - np.sum(dense_a * dense_b) / norms) <= COSINE
    out_overlap, in_overlap = pair.out_overlap, pair.in_overlap
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
    pair = FactorPair(a, b)
    assert pair.cosine == pytest.approx(np.sum(dense[0] * dense[1]) / (norms[0] * norms[1]), abs=COSINE * 1e-3)
    out_overlap, in_overlap = pair.out_overlap, pair.in_overlap
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


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-8, 1e-4, 0.3, 0.78, 1.2, math.pi / 2 - 1e-9, math.pi / 2])
def test_principal_angles_of_known_planes(angle: float) -> None:
    directions, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((101, 7)))
    other = math.cos(angle) * directions[:, 0] + math.sin(angle) * directions[:, 3]
    draw = np.random.default_rng(4)
    a = FactoredMatrix(directions[:, :3] @ draw.standard_normal((3, 3)), draw.standard_normal((3, 53)))
    b = FactoredMatrix(np.stack([other, directions[:, 5]], axis=1), draw.standard_normal((2, 53)))
    for angles in (FactorPair(a, b).principal_angles(), FactorPair(b, a).principal_angles()):
        np.testing.assert_allclose(angles, [angle, math.pi / 2], atol=1e-12, rtol=1e-6)


@given(seed=SEEDS, out=st.sampled_from([23, 29, 31, 37]), ranks=st.tuples(RANKS, RANKS))
@settings(max_examples=100)
def test_principal_angles_are_the_dense_ones(seed: int, out: int, ranks: tuple[int, int]) -> None:
    a, b = factored(seed, out, ranks[0], 43), factored(seed + 1, out, ranks[1], 43)
    bases = [np.linalg.svd(m.dense(), full_matrices=False)[0][:, : Spectrum(m).rank()] for m in (a, b)]
    cosines = np.clip(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False), 0.0, 1.0)
    # Squared cosines are told apart from 1 only to 1e-15, so dense angles near 0 are good to 3e-8: within tolerance.
    np.testing.assert_allclose(FactorPair(a, b).principal_angles(), np.arccos(cosines), atol=ANGLE)


@pytest.mark.parametrize("ranks", [(2, 3), (16, 16), (40, 40), (17, 33)])
@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 0.1, 0.2, 0.7])
def test_the_smallest_angle_is_the_first_of_the_principal_ones(angle: float, ranks: tuple[int, int]) -> None:
    draw = np.random.default_rng(6)
    directions, _ = np.linalg.qr(draw.standard_normal((211, 100)))
    own, others = directions[:, : ranks[0]], directions[:, 50 : 50 + ranks[1]].copy()
    others[:, 0] = math.cos(angle) * own[:, 1] + math.sin(angle) * others[:, 0]
    a = FactoredMatrix(own @ draw.standard_normal((ranks[0], ranks[0])), draw.standard_normal((ranks[0], 90)))
    b = FactoredMatrix(others @ draw.standard_normal((ranks[1], ranks[1])), draw.standard_normal((ranks[1], 90)))
    assert FactorPair(a, b).smallest_angle == pytest.approx(angle, abs=1e-8)
    assert FactorPair(b, a).smallest_angle == pytest.approx(angle, abs=1e-8)


def test_one_space_overlaps_itself_wholly() -> None:
    a = factored(4, 29, 3, 31)
    same_rows = FactoredMatrix(np.random.default_rng(9).standard_normal((29, 3)), a.down)
    overlap = FactorPair(a, same_rows).in_overlap
    assert overlap is not None
    assert overlap.fraction == pytest.approx(1.0)
    assert overlap.chance == 3 / 31
    assert overlap.multiple == pytest.approx(31 / 3)


def test_random_subspaces_overlap_by_chance() -> None:
    overlaps = [FactorPair(factored(2 * s, 53, 5, 7), factored(2 * s + 1, 53, 3, 7)).out_overlap for s in range(400)]
    assert np.mean([o.multiple for o in overlaps if o]) == pytest.approx(1.0, abs=0.05)
