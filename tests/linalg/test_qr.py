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
