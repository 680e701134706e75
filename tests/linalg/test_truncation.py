"""Sums and truncations of matrices against dense float64 algebra."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwlab.linalg.factored import Array, FactoredMatrix
from bwlab.linalg.truncation import Truncation, concatenated, truncate, truncate_dense

SEEDS = st.integers(0, 2**32 - 1)
RANKS = st.integers(1, 13)


def factored(seed: int, rank: int, out: int = 11, inner: int = 17) -> FactoredMatrix:
    generator = np.random.default_rng(seed)
    return FactoredMatrix(generator.standard_normal((out, rank)), generator.standard_normal((rank, inner)))


def best_loss(matrix: Array, rank: int) -> float:
    return float(np.sum(np.linalg.svd(matrix, compute_uv=False)[rank:] ** 2))


def assert_near_best(found: Truncation, dense: Array, rank: int, tolerance: float) -> None:
    """Return the approximation is of this rank at most, near the best, and tells its own error."""
    energy = float(np.sum(dense**2))
    assert found.matrix.inner_rank <= rank
    assert found.energy == pytest.approx(energy)
    real = float(np.sum((dense - found.matrix.dense()) ** 2))
    assert abs(real - found.lost) <= 1e-12 * energy
    assert abs(real - best_loss(dense, rank)) <= tolerance * energy
    assert found.error == pytest.approx(np.sqrt(found.lost / energy))
    assert found.kept == pytest.approx(1 - found.lost / energy)


@given(SEEDS, RANKS, RANKS)
def test_a_concatenation_is_the_sum(seed: int, rank_a: int, rank_b: int) -> None:
    a, b = factored(seed, rank_a), factored(seed + 1, rank_b)
    both = concatenated([a, b])
    assert both.inner_rank == rank_a + rank_b
    assert np.allclose(both.dense(), a.dense() + b.dense(), atol=1e-12)


def test_no_sum_of_different_shapes() -> None:
    with pytest.raises(ValueError, match="no sum of matrices of the shapes"):
        concatenated([factored(0, 2), factored(0, 2, inner=19)])
    with pytest.raises(ValueError, match="no sum"):
        concatenated([])


@given(SEEDS, RANKS, RANKS)
def test_a_truncation_is_the_nearest_of_its_rank(seed: int, inner_rank: int, rank: int) -> None:
    matrix = factored(seed, inner_rank)
    found = truncate(matrix, rank)
    assert_near_best(found, matrix.dense(), rank, 1e-12)
    assert np.allclose(np.linalg.norm(found.matrix.up, axis=0), np.linalg.norm(found.matrix.down, axis=1))


@given(SEEDS, st.sampled_from([(11, 17), (17, 11), (131, 137), (139, 131)]), RANKS, st.booleans())
def test_a_dense_matrix_too(seed: int, shape: tuple[int, int], rank: int, is_noise: bool) -> None:
    generator = np.random.default_rng(seed)
    low = generator.standard_normal((shape[0], 3)) @ generator.standard_normal((3, shape[1]))
    dense = low + (1.0 if is_noise else 1e-3) * generator.standard_normal(shape)
    assert_near_best(truncate_dense(dense, rank), dense, rank, 2e-5)


def test_a_matrix_of_that_rank_is_kept() -> None:
    for out, inner in ((13, 7), (151, 149)):
        dense = factored(3, 5, out, inner).dense()
        found = truncate_dense(dense, 5)
        assert np.allclose(found.matrix.dense(), dense, atol=1e-9)
        assert truncate_dense(dense, 7).matrix.inner_rank == 5


def test_nothing_of_nothing() -> None:
    for found in (truncate_dense(np.zeros((3, 5)), 2), truncate(FactoredMatrix(np.zeros((3, 2)), np.ones((2, 5))), 1)):
        assert (found.matrix.inner_rank, found.kept, found.error) == (0, 1.0, 0.0)
        assert np.array_equal(found.matrix.dense(), np.zeros((3, 5)))
