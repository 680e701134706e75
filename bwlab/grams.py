"""Gram matrices of tall matrices in float64, read once from whatever floats they are held in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]

# So many numbers are widened at once: they stay in a CPU's cache, which whole factors of large models do not. No power
# of two, at which the columns of common widths would fall into the same places of the cache.
STRIP = 500_000


def gram(*matrices: Floats) -> Array:
    """`M^T M`, `(r, r)`, of the matrices side by side, `M = [A, B ...]`; r is the sum of their widths.

    One product of two matrices together takes less time than three of them, and every number is widened once.

    Args:
        matrices: `(rows, width)` each, of any floats; the product is that of the same numbers in float64.
    """
    first = matrices[0]
    if len(matrices) == 1 and first.dtype == np.float64:
        whole: Array = first.T @ first
        return whole
    rows, width = len(first), sum(matrix.shape[1] for matrix in matrices)
    # A strip much longer than wide, else adding up the products would take longer than they do; and held column by
    # column, which makes the product a sixth faster.
    size = min(rows, max(STRIP // max(width, 1), 4 * width))
    # Of one size however few the rows: malloc keeps pieces of a size that it has seen freed, and hands them out again.
    strip = np.empty(max(STRIP, width * size))[: width * size].reshape(width, size).T
    total = np.zeros((width, width))
    for start in range(0, rows, max(size, 1)):
        part = strip[: min(size, rows - start)]
        column = 0
        for matrix in matrices:
            part[:, column : column + matrix.shape[1]] = matrix[start : start + len(part)]
            column += matrix.shape[1]
        total += part.T @ part
    return total
