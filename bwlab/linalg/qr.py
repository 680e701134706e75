"""Gram matrices, thin QR and Cholesky triangles of tall matrices, computed in float64 from floats of any precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]

# So many numbers are widened at once: they stay in a CPU's cache, which whole factors of large models do not. No power
# of two, at which the columns of common widths would fall into the same places of the cache.
STRIP = 500_000

# Sign, exponent and mantissa of a half, in the places that they have in single precision.
SINGLE_BITS = np.int32(-0x70002000)
HALVES_SQUARED = 2.0**224

# Fewer columns than this are done fastest by Householder reflections.
SMALL_RANK = 16
# Up to this condition number a Cholesky factor of the Gram matrix loses nothing that a second pass does not repair.
WELL_CONDITIONED = 1e4
# Triangles of up to this size are inverted at once.
UNDIVIDED = 8


def gram(*matrices: Floats) -> Array:
    """Return `M^T M`, `(r, r)`, of the matrices side by side, `M = [A, B ...]`; r is the sum of their widths.

    One product of two matrices together takes less time than three of them, and every number is widened once.

    Args:
        matrices: `(rows, width)` each, of any floats; the product is that of the same numbers in float64.

    """
    first = matrices[0]
    if len(matrices) == 1 and first.dtype == np.float64:
        whole: Array = first.T @ first
        return whole
    rows, width = len(first), sum(matrix.shape[1] for matrix in matrices)
    # A strip much longer than wide, else adding up the products would take longer than they do.
    size = min(rows, max(STRIP // max(width, 1), 4 * width))
    # Of one size however few the rows: malloc keeps pieces of a size that it has seen freed, and hands them out again.
    most = max(STRIP, width * size)
    buffer = np.empty(most + most // 2 + 1)
    halves, bits = all(matrix.dtype == np.float16 for matrix in matrices), buffer[most:].view(np.int32)
    by_rows = all(matrix.flags.c_contiguous for matrix in matrices)
    total: Array | None = None
    for start in range(0, rows, max(size, 1)):
        count = min(size, rows - start)
        shape, numbers = (count, width) if by_rows else (width, count), width * count
        strip = buffer[:numbers].reshape(shape)
        held = bits[:numbers].reshape(shape) if halves else strip
        columns, column = held if by_rows else held.T, 0
        for matrix in matrices:
            part = matrix[start : start + count]
            columns[:, column : column + matrix.shape[1]] = part.view(np.int16) if halves else part
            column += matrix.shape[1]
        if halves:
            _widen_halves(bits[:numbers], buffer[:numbers])
        product = strip.T @ strip if by_rows else strip @ strip.T
        total = product if total is None else total + product
    whole = np.zeros((width, width)) if total is None else total
    return whole * HALVES_SQUARED if halves else whole


def _widen_halves(bits: npt.NDArray[np.int32], wide: Array) -> None:
    """Write the half-precision numbers with these bits, times 2^-112, in float64; in half the time of numpy's cast.

    Args:
        bits: the bits of the half-precision numbers, sign-extended; they are overwritten.
        wide: the result, an array of the same size.

    """
    # The exponent and the mantissa move to their places in single precision, whose exponents begin 112 lower.
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, SINGLE_BITS, out=bits)
    np.copyto(wide, bits.view(np.float32))


@dataclass(frozen=True, eq=False)
class Triangle:
    """An upper triangle and its inverse, `(r, r)` each; or stacks of them, `(..., r, r)`, which cost less together."""

    upper: Array
    inverse: Array

    def __getitem__(self, some: slice) -> Triangle:
        return Triangle(self.upper[some], self.inverse[some])


def thin_qr(matrix: Array) -> tuple[Array, Array]:
    """Return `Q (rows, k)` with orthonormal columns and `R (k, columns)`, `k = min(rows, columns)`, `Q R = matrix`.

    Tall matrices with many columns go through CholeskyQR2, ten times as fast as Householder's and as exact while the
    condition number is small; where it is not, Householder's is used.
    Source: Yamamoto et al., Roundoff error analysis of the CholeskyQR2 algorithm (ETNA 44, 2015).
    """
    rows, columns = matrix.shape
    if columns < SMALL_RANK or columns >= rows:
        return _householder(matrix)
    try:
        rough, first = _cholesky_pass(matrix)
        basis, second = _cholesky_pass(rough)
    except np.linalg.LinAlgError:
        return _householder(matrix)
    return basis, second @ first


def _householder(matrix: Array) -> tuple[Array, Array]:
    basis, triangle = np.linalg.qr(matrix)
    return np.asarray(basis, dtype=np.float64), np.asarray(triangle, dtype=np.float64)


def _cholesky_pass(matrix: Array) -> tuple[Array, Array]:
    triangle = cholesky(matrix.T @ matrix)
    return matrix @ triangle.inverse, triangle.upper


def cholesky(gram: Array) -> Triangle:
    """Return the upper triangles R with `R^T R = gram`, `(..., r, r)`.

    Raises:
        LinAlgError: a Gram matrix is singular, or its condition number too large.

    """
    triangle = np.asarray(np.linalg.cholesky(gram).swapaxes(-1, -2), dtype=np.float64)
    inverse = _inverse(triangle)
    squares = np.sum(triangle**2, axis=(-2, -1)) * np.sum(inverse**2, axis=(-2, -1))
    if not np.all(squares < WELL_CONDITIONED**2):
        raise np.linalg.LinAlgError("too badly conditioned for a Gram matrix")
    return Triangle(triangle, inverse)


def _inverse(upper: Array) -> Array:
    """Return the inverse of upper triangles `(..., r, r)`, by halves: numpy's inverse does not use the zeros."""
    size = upper.shape[-1]
    if size <= UNDIVIDED:
        return np.asarray(np.linalg.inv(upper), dtype=np.float64)
    half = size // 2
    if size % 2 == 0:
        # Both corners at once, as a view: (..., 2, half, 2, half) -> (2, ..., half, half).
        first, last = _inverse(
            np.moveaxis(upper.reshape(*upper.shape[:-2], 2, half, 2, half).diagonal(0, -4, -2), -1, 0)
        )
    else:
        first, last = _inverse(upper[..., :half, :half]), _inverse(upper[..., half:, half:])
    whole = np.zeros_like(upper)
    whole[..., :half, :half], whole[..., half:, half:] = first, last
    whole[..., :half, half:] = -(first @ upper[..., :half, half:]) @ last
    return whole
