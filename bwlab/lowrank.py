"""A low-rank product `up @ down` as a value with its own norm, spectrum and inner product, never multiplied out.

Only numpy, in float64. The idea of the value is TransformerLens' `FactoredMatrix`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

EPSILON = float(np.finfo(np.float64).eps)
# Below this square of norm / sum_i |up_i| |down_i| the traces have lost too many digits to cancellation.
CANCELLED = 1e-8
# Fewer columns than this are done fastest by Householder reflections.
SMALL_RANK = 16
# Up to this condition number a Cholesky factor of the Gram matrix loses nothing that a second pass does not repair.
WELL_CONDITIONED = 1e4


@dataclass(frozen=True)
class Overlap:
    """How much of two subspaces of R^dimension is shared.

    Attributes:
        shared: `||U_a^T U_b||_F^2`, the number of shared directions, 0..min(ranks).
        rank_a, rank_b: dimensions of the subspaces, at least 1.
        dimension: of the space around them.
    """

    shared: float
    rank_a: int
    rank_b: int
    dimension: int

    @property
    def fraction(self) -> float:
        """`shared / min(rank_a, rank_b)`, 0..1: 1 means that one subspace holds the other."""
        return self.shared / min(self.rank_a, self.rank_b)

    @property
    def chance(self) -> float:
        """The fraction expected of two random subspaces: `max(rank_a, rank_b) / dimension`."""
        return max(self.rank_a, self.rank_b) / self.dimension

    @property
    def multiple(self) -> float:
        """`fraction / chance`: 1 is what random subspaces give."""
        return self.fraction / self.chance


@dataclass(frozen=True, eq=False)
class FactoredMatrix:
    """The matrix `up @ down` of shape `(out, in)`, held as its factors.

    Of a convolution, `in` is channels x k x k. Any scale (alpha / rank) is folded into `up` by whoever makes the value.

    Attributes:
        up: `(out, r)`, finite.
        down: `(r, in)`, finite.

    Raises:
        ValueError: the factors are not two matrices that can be multiplied.
    """

    up: Array
    down: Array

    def __post_init__(self) -> None:
        up, down = np.asarray(self.up, dtype=np.float64), np.asarray(self.down, dtype=np.float64)
        if up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0]:
            raise ValueError(f"factors of shapes {up.shape} and {down.shape} do not make a matrix")
        object.__setattr__(self, "up", up)
        object.__setattr__(self, "down", down)

    @classmethod
    def of_svd(cls, left: Array, values: Array, right: Array) -> FactoredMatrix:
        """The matrix `left diag(values) right^T`, which then knows its singular vectors without computing them.

        Args:
            left: orthonormal columns, `(out, r)`.
            values: singular values, largest first, `(r,)`.
            right: orthonormal columns, `(in, r)`.
        """
        matrix = cls(left * values, right.T)
        kept = int(np.count_nonzero(matrix._zero_below_rounding(values)))
        matrix.__dict__["_core_values"] = values
        matrix.__dict__["_svd"] = (left[:, :kept], values[:kept], right[:, :kept])
        return matrix

    @property
    def shape(self) -> tuple[int, int]:
        """`(out, in)` of the product."""
        return self.up.shape[0], self.down.shape[1]

    @property
    def inner_rank(self) -> int:
        """The width r of the factors; the rank of the product is at most this."""
        return int(self.up.shape[1])

    @property
    def T(self) -> FactoredMatrix:
        """The transpose, `(in, out)`."""
        return FactoredMatrix(self.down.T, self.up.T)

    def dense(self) -> Array:
        """The product, `(out, in)`: for tests and small matrices."""
        return self.up @ self.down

    def scaled(self, factor: float) -> FactoredMatrix:
        """This matrix times a number."""
        return FactoredMatrix(self.up * factor, self.down)

    def norm(self) -> float:
        """The Frobenius norm, `sqrt(sum((up^T up) * (down down^T)))`; exactly 0 where rounding alone is left."""
        square = self._square
        if square < CANCELLED * self._size**2:
            return float(np.linalg.norm(self.singular_values()))
        return math.sqrt(square)

    def inner(self, other: FactoredMatrix) -> float:
        """`trace(self^T other) = sum((up_a^T up_b) * (down_a down_b^T))`; ValueError if the shapes differ."""
        if self.shape != other.shape:
            raise ValueError(f"no inner product between shapes {self.shape} and {other.shape}")
        a, b = self._without_cancellation, other._without_cancellation
        return float(np.sum((a.up.T @ b.up) * (a.down @ b.down.T)))

    def cosine(self, other: FactoredMatrix) -> float | None:
        """`inner / (norm norm)`, -1..1; None where either matrix is zero, since a zero has no direction."""
        inner, norms = self.inner(other), self.norm() * other.norm()
        return None if norms == 0.0 else min(1.0, max(-1.0, inner / norms))

    def singular_values(self) -> Array:
        """Singular values, largest first, `(min(r, out, in),)`; those that are only rounding are exactly 0."""
        return self._zero_below_rounding(self._core_values)

    @cached_property
    def svd(self) -> tuple[Array, Array, Array]:
        """Thin SVD cut at the numerical rank k: left `(out, k)`, values `(k,)` largest first, right `(in, k)`."""
        out_basis, out_triangle = thin_qr(self.up)
        in_basis, in_triangle = thin_qr(self.down.T)
        left, values, right = np.linalg.svd(out_triangle @ in_triangle.T, full_matrices=False)
        values = self._zero_below_rounding(values)
        kept = int(np.count_nonzero(values))
        return out_basis @ left[:, :kept], values[:kept], in_basis @ right[:kept].T

    def rank(self) -> int:
        """The numerical rank: how many singular values are more than rounding."""
        return int(np.count_nonzero(self.singular_values()))

    def effective_rank(self) -> float | None:
        """`exp(entropy(s / sum(s)))` of the singular values s, 1..rank; None of a zero matrix.

        Source: Roy and Vetterli, The effective rank (EUSIPCO 2007), equations 2 to 4: singular values, not squares.
        """
        values = self.singular_values()
        values = values[values > 0.0]
        if values.size == 0:
            return None
        shares = values / values.sum()
        return float(np.exp(-np.sum(shares * np.log(shares))))

    def top1_share(self) -> float | None:
        """`s_1^2 / sum(s^2)`, the energy of the largest direction, 1/rank..1; None of a zero matrix."""
        squares = self.singular_values() ** 2
        total = float(squares.sum())
        return None if total == 0.0 else float(squares[0]) / total

    def out_basis(self) -> Array:
        """Orthonormal columns that span the column space, `(out, rank)`: the left singular vectors."""
        left, _, _ = self.svd
        return left

    def in_basis(self) -> Array:
        """Orthonormal columns that span the row space, `(in, rank)`: the right singular vectors."""
        _, _, right = self.svd
        return right

    def out_overlap(self, other: FactoredMatrix) -> Overlap | None:
        """The overlap of the column spaces (what is written); None where either matrix is zero."""
        return _overlap(self.out_basis(), other.out_basis())

    def in_overlap(self, other: FactoredMatrix) -> Overlap | None:
        """The overlap of the row spaces (what is listened to); None where either matrix is zero."""
        return _overlap(self.in_basis(), other.in_basis())

    def principal_angles(self, other: FactoredMatrix) -> Array:
        """Angles between the column spaces in radians, 0..pi/2, smallest first, `(min(rank_a, rank_b),)`.

        Cosines alone lose every angle under 1e-8, sines those near pi/2; `atan2(sine, cosine)` keeps both.
        Source: Bjorck and Golub, Numerical methods for computing angles between linear subspaces (1973).
        """
        wide, thin = self.out_basis(), other.out_basis()
        if wide.shape[1] < thin.shape[1]:
            wide, thin = thin, wide
        if thin.shape[1] == 0:
            return np.zeros(0)
        product = wide.T @ thin
        cosines = np.linalg.svd(product, compute_uv=False)
        sines = np.linalg.svd(thin - wide @ product, compute_uv=False)[::-1]
        angles: Array = np.arctan2(sines, cosines)
        return angles

    @cached_property
    def _square(self) -> float:
        return float(np.sum((self.up.T @ self.up) * (self.down @ self.down.T)))

    @cached_property
    def _size(self) -> float:
        """`sum_i |up_i| |down_i|`: bounds the norm from above; rounding errors are in proportion to it."""
        return float(np.linalg.norm(self.up, axis=0) @ np.linalg.norm(self.down, axis=1))

    @cached_property
    def _without_cancellation(self) -> FactoredMatrix:
        """This matrix, from other factors where its own nearly cancel out."""
        if self._square >= CANCELLED * self._size**2:
            return self
        left, values, right = self.svd
        return FactoredMatrix(left * values, right.T)

    @cached_property
    def _core_values(self) -> Array:
        core = thin_qr(self.up)[1] @ thin_qr(self.down.T)[1].T
        return np.asarray(np.linalg.svd(core, compute_uv=False))

    def _zero_below_rounding(self, values: Array) -> Array:
        limit = EPSILON * max(*self.shape, self.inner_rank) * self._size
        kept: Array = np.where(values > limit, values, 0.0)
        return kept


def thin_qr(matrix: Array) -> tuple[Array, Array]:
    """`(Q, R)` with orthonormal columns `Q (rows, k)`, `R (k, columns)`, `k = min(rows, columns)`, `Q R = matrix`.

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
    triangle = np.asarray(np.linalg.cholesky(matrix.T @ matrix).T, dtype=np.float64)
    inverse = np.linalg.inv(triangle)
    if not np.linalg.norm(triangle, 1) * np.linalg.norm(inverse, 1) < WELL_CONDITIONED:
        raise np.linalg.LinAlgError("too badly conditioned for a Gram matrix")
    return matrix @ inverse, triangle


def _overlap(a: Array, b: Array) -> Overlap | None:
    """The overlap of the spans of two orthonormal bases `(d, r_a)`, `(d, r_b)`; ValueError if their spaces differ."""
    if a.shape[0] != b.shape[0]:
        raise ValueError(f"no overlap between subspaces of R^{a.shape[0]} and R^{b.shape[0]}")
    if a.shape[1] == 0 or b.shape[1] == 0:
        return None
    return Overlap(float(np.linalg.norm(a.T @ b) ** 2), a.shape[1], b.shape[1], a.shape[0])
