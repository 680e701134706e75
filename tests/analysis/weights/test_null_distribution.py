"""The random pair's formulas against seeded draws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bwlab.linalg.factored import Array, FactoredMatrix
from bwlab.linalg.pair import FactorPair, Overlap, PartRanks
from bwlab_analysis.weights import null_distribution as chance
from bwlab_analysis.weights.pair_measures import SIGN_CONFLICT

OUT, IN = 11, 13
DRAWS = 4000


def frame(draw: np.random.Generator, size: int, rank: int) -> Array:
    """Uniformly random orthonormal columns."""
    basis, triangle = np.linalg.qr(draw.standard_normal((size, rank)))
    return np.asarray(basis * np.sign(np.diag(triangle)))


def haar(draw: np.random.Generator, values: list[float]) -> FactoredMatrix:
    """Return a matrix of these singular values, its singular vectors uniformly random."""
    return FactoredMatrix(frame(draw, OUT, len(values)) * values, frame(draw, IN, len(values)).T)


def cosine(a: FactoredMatrix, b: FactoredMatrix) -> float:
    value = FactorPair(a, b).cosine
    assert value is not None
    return value


@pytest.mark.parametrize(("values_a", "values_b"), [([1.0], [1.0]), ([5.0, 1.0, 0.1], [2.0, 2.0])])
def test_cosine_of_random_pairs_has_the_stated_spread(values_a: list[float], values_b: list[float]) -> None:
    draw = np.random.default_rng(0)
    cosines = [cosine(haar(draw, values_a), haar(draw, values_b)) for _ in range(DRAWS)]
    expected = math.sqrt(chance.cosine_variance((OUT, IN)))
    assert np.std(cosines) == pytest.approx(expected, rel=0.05)
    assert abs(np.mean(cosines)) < 4 * expected / math.sqrt(DRAWS)


def test_cosine_of_random_pairs_that_share_inputs_has_the_stated_spread() -> None:
    draw = np.random.default_rng(1)
    rows = frame(draw, IN, 2).T
    values_a, values_b = np.array([3.0, 1.0]), np.array([2.0, 0.5])
    pairs = [
        (FactoredMatrix(frame(draw, OUT, 2) * values_a, rows), FactoredMatrix(frame(draw, OUT, 2) * values_b, rows))
        for _ in range(DRAWS)
    ]
    expected = chance.inner_variance_given_inputs(FactorPair(*pairs[0]))
    dense = np.linalg.norm(pairs[0][0].dense() @ pairs[0][1].dense().T) ** 2 / OUT
    assert expected == pytest.approx(dense, rel=1e-12)
    assert np.var([FactorPair(a, b).inner for a, b in pairs]) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(("rank_a", "rank_b"), [(1, 1), (2, 3), (5, 7), (11, 2)])
def test_overlap_of_random_pairs_has_the_stated_spread(rank_a: int, rank_b: int) -> None:
    draw = np.random.default_rng(2)
    shared = [np.linalg.norm(frame(draw, OUT, rank_a).T @ frame(draw, OUT, rank_b)) ** 2 for _ in range(DRAWS)]
    overlap = Overlap(float(np.mean(shared)), rank_a, rank_b, OUT)
    assert overlap.multiple == pytest.approx(1.0, rel=0.05)
    assert np.std(shared) == pytest.approx(math.sqrt(chance.overlap_variance(overlap)), rel=0.05, abs=1e-12)


@pytest.mark.parametrize(
    ("parts_a", "parts_b"),
    [
        (((3, 3), (8, 2)), ((3, 3), (8, 3))),  # a whole part, cut alike
        (((4, 4), (6, 1)), ((2, 2), (12, 2))),  # a whole part, cut differently
        (((4, 2), (6, 3)), ((6, 2), (4, 1))),  # no cut in common, but a factor
        (((5, 2), (6, 2)), ((6, 3), (5, 1))),  # nothing in common
        (((1, 1), (24, 3)), ((4, 3), (6, 1))),  # only one is a product
    ],
)
def test_overlap_of_random_kronecker_products_has_the_stated_spread(parts_a: PartRanks, parts_b: PartRanks) -> None:
    draw = np.random.default_rng(5)

    def subspace(parts: PartRanks) -> Array:
        first, second = (frame(draw, size, rank) for size, rank in parts)
        return np.asarray(np.kron(first, second), np.float64)

    shared = [np.linalg.norm(subspace(parts_a).T @ subspace(parts_b)) ** 2 for _ in range(DRAWS)]
    rank_a, rank_b = (math.prod(rank for _, rank in parts) for parts in (parts_a, parts_b))
    overlap = Overlap(float(np.mean(shared)), rank_a, rank_b, math.prod(size for size, _ in parts_a), parts_a, parts_b)
    assert overlap.multiple == pytest.approx(1.0, rel=0.05)
    assert np.std(shared) == pytest.approx(math.sqrt(chance.overlap_variance(overlap)), rel=0.06)


def test_overlap_on_a_line_has_no_spread() -> None:
    assert chance.overlap_variance(Overlap(1.0, 1, 1, 1)) == 0.0


def test_least_angle_is_about_that_of_random_subspaces() -> None:
    draw, size = np.random.default_rng(3), 211
    ranks = (17, 29)
    cosines = [np.linalg.norm(frame(draw, size, ranks[0]).T @ frame(draw, size, ranks[1]), 2) for _ in range(50)]
    expected = math.degrees(chance.least_angle(Overlap(1.0, *ranks, size)))
    assert math.degrees(math.acos(float(np.mean(cosines)))) == pytest.approx(expected, abs=3.0)
    assert chance.least_angle(Overlap(1.0, 7, 5, 11)) == 0.0


@pytest.mark.parametrize("values", [[1.0], [3.0, 1.0, 0.5]])
def test_sign_conflict_of_random_pairs_has_the_stated_spread(values: list[float]) -> None:
    draw = np.random.default_rng(4)
    shares = []
    for _ in range(DRAWS):
        parts = SIGN_CONFLICT.of_pair(FactorPair(haar(draw, values), haar(draw, values)))
        assert parts is not None
        assert parts["counted"] == OUT * IN
        shares.append(parts["opposed"] / parts["counted"])
    assert np.std(shares) == pytest.approx(chance.sign_conflict_sd(OUT * IN), rel=0.05)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.003)
