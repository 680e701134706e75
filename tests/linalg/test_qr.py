"""Gram matrices against those of the whole matrices in float64."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import DTypeLike

from bwlab.linalg.qr import Floats, gram


def drawn(rows: int, width: int, dtype: DTypeLike, lying: bool, seed: int) -> Floats:
    values = np.random.default_rng(seed).standard_normal((width, rows) if lying else (rows, width))
    held: Floats = (3 + values).astype(dtype)
    return held.T if lying else held


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("lying", [False, True])
# With 37 columns in all, strips end at 14169 rows.
@pytest.mark.parametrize("rows", [1, 11, 14169, 30011])
def test_gram_of_two_is_the_dense_one(dtype: DTypeLike, lying: bool, rows: int) -> None:
    a, b = drawn(rows, 7, dtype, lying, 0), drawn(rows, 30, dtype, lying, 1)
    wide = np.concatenate([a.astype(np.float64), b.astype(np.float64)], axis=1)
    found = gram(a, b)
    np.testing.assert_allclose(found, wide.T @ wide, rtol=1e-12)
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_allclose(gram(a), found[:7, :7], rtol=1e-12)


def test_more_columns_than_rows_fit() -> None:
    a, b = drawn(5, 701, np.float16, False, 0), drawn(5, 2, np.float16, False, 1)
    wide = np.concatenate([a, b], axis=1).astype(np.float64)
    np.testing.assert_allclose(gram(a, b), wide.T @ wide, rtol=1e-12)


def test_matrices_of_several_kinds_side_by_side() -> None:
    a, b = drawn(13, 3, np.float16, True, 0), drawn(13, 5, np.float64, False, 1)
    wide = np.concatenate([a.astype(np.float64), b], axis=1)
    np.testing.assert_allclose(gram(a, b), wide.T @ wide, rtol=1e-12)


@pytest.mark.parametrize("lying", [False, True])
def test_every_half_is_widened_exactly(lying: bool) -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    halves = bits.view(np.float16)
    halves = halves[np.isfinite(halves)]
    for column in (halves[:, None], np.sort(np.abs(halves))[:1100, None]):  # all of them, and those near 0
        matrix = np.asfortranarray(column) if lying else column
        np.testing.assert_allclose(gram(matrix), column.astype(np.float64).T @ column.astype(np.float64), rtol=1e-14)
    ones = np.diag(np.array([6e-8, 6.1e-5, 1, -65504], np.float16))  # the least subnormal, the least normal, the most
    np.testing.assert_array_equal(gram(ones, ones)[:4, :4], np.square(ones.astype(np.float64)))
