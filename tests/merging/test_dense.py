"""TIES and DARE against their papers' definitions, number by number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bwlab.linalg.factored import Array
from bwlab.linalg.sparse_merges import dare, module_generator, ties, trimmed

NUMBERS = st.floats(-8, 8, allow_nan=False).map(lambda number: round(number, 2))
DELTAS = st.lists(arrays(np.float64, (3, 5), elements=NUMBERS), min_size=1, max_size=4)


def ties_of_numbers(numbers: list[float]) -> float:
    """TIES of one place of deltas that are trimmed already."""
    total = sum(numbers)
    sign = (total > 0) - (total < 0)
    agreeing = [number for number in numbers if number * sign > 0]
    return sum(agreeing) / len(agreeing) if agreeing else 0.0


@given(DELTAS, st.sampled_from([0.2, 0.5, 1.0]))
def test_ties_place_by_place(deltas: list[Array], density: float) -> None:
    kept = [trimmed(delta, density) for delta in deltas]
    expected = [[ties_of_numbers([float(delta[i, j]) for delta in kept]) for j in range(5)] for i in range(3)]
    # The order of a sum decides about a sign where it is all but zero.
    clear = np.abs(np.sum(kept, axis=0)) > 1e-9
    assert np.allclose(ties(deltas, density)[clear], np.array(expected)[clear])


def test_ties_by_hand() -> None:
    a, b, c = np.array([[5.0, -1.0, 3.0, 0.1]]), np.array([[4.0, -6.0, -2.0, 0.2]]), np.array([[-3.0, 2.0, 4.0, 0.3]])
    # Of four numbers the larger two: a keeps 5 and 3, b keeps 4 and -6, c keeps -3 and 4.
    assert np.array_equal(ties([a, b, c], 0.5), [[4.5, -6.0, 3.5, 0.0]])


def test_trimming_keeps_the_largest_share() -> None:
    delta = np.random.default_rng(0).standard_normal((17, 19))
    for density in (0.01, 0.2, 0.77):
        kept = trimmed(delta, density)
        count = round(density * delta.size)
        assert np.count_nonzero(kept) == count
        assert np.abs(delta[kept == 0]).max() <= np.abs(kept[kept != 0]).min()
    assert trimmed(delta, 1.0) is delta
    assert np.count_nonzero(trimmed(delta, 1e-9)) == 1


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_dare_is_the_same_on_average(density: float) -> None:
    delta = np.random.default_rng(1).standard_normal((7, 11))
    generator = np.random.default_rng(2)
    draws = [dare(delta, density, generator) for _ in range(4000)]
    assert all(np.isin(draw, [0.0]).sum() + np.isclose(draw, delta / density).sum() == delta.size for draw in draws[:5])
    # The mean of n draws has the standard deviation |delta| sqrt((1 - p) / (p n)); six of them in 77 numbers is chance
    # below 1e-6.
    spread = np.abs(delta) * np.sqrt((1 - density) / (density * len(draws)))
    assert (np.abs(np.mean(draws, axis=0) - delta) < 6 * spread).all()


def test_dare_that_drops_nothing() -> None:
    delta = np.random.default_rng(1).standard_normal((7, 11))
    assert np.array_equal(dare(delta, 1.0, np.random.default_rng(0)), delta)


def test_every_module_of_every_adapter_has_random_numbers_of_its_own() -> None:
    drawn = {
        (seed, place, path): module_generator(seed, place, path).random()
        for seed in (0, 1)
        for place in (0, 1)
        for path in ("mid_block.a", "mid_block.b")
    }
    assert len(set(drawn.values())) == len(drawn)
    assert module_generator(1, 0, "mid_block.a").random() == drawn[1, 0, "mid_block.a"]
