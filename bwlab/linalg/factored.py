"""A low-rank matrix held as its factors, and the norm and singular values that follow from their Gram matrices.

Nothing here multiplies the matrix out except `dense`. Only numpy; every product is that of float64, whatever floats
the factors are held in. The idea of the value is TransformerLens' `FactoredMatrix`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bwlab.linalg.qr import SMALL_RANK, Floats, cholesky, gram, thin_qr
from bwlab.linalg.qr import Array as Array

EPSILON = float(np.finfo(np.float64).eps)
# Below this square of norm / sum_i |up_i| |down_i| the traces have lost too many digits to cancellation.
CANCELLED = 1e-8


@dataclass(frozen=True)
class Part:
    """One matrix of a Kronecker product: its shape and rank."""

    out: int
    inner: int
    rank: int


class Svd(NamedTuple):
    """A thin singular value decomposition `left diag(values) right^T`.

    Attributes:
        left: orthonormal columns, `(out, k)`.
        values: singular values, largest first, `(k,)`.
        right: orthonormal columns, `(in, k)`.

    """

    left: Array
    values: Array
    right: Array

    def cut(self, rank: int) -> Svd:
        """Return the part of the `rank` largest singular values."""
        return Svd(self.left[:, :rank], self.values[:rank], self.right[:, :rank])


class Grams(NamedTuple):
    """Products of factors: `up_a^T up_b` and `down_a down_b^T`, `(r_a, r_b)` each; a and b may be one matrix."""

    up: Array
    down: Array


@dataclass(frozen=True, eq=False)
class FactoredMatrix:
    """The matrix `scale * up_factor @ down_factor` of shape `(out, in)`; of a convolution, `in` is channels x k x k.

    Attributes:
        up_factor: `(out, r)`; half and single precision are widened where they are needed.
        down_factor: `(r, in)`.
        scale: alpha / rank, if it is not contained in a factor.
        parts: the two matrices of a Kronecker product, if known; the row and column spaces are products of theirs.
        known_svd: the singular value decomposition, if the factors were made from one.

    Raises:
        ValueError: the factors are not two matrices that can be multiplied.

    """

    up_factor: Floats
    down_factor: Floats
    scale: float = 1.0
    parts: tuple[Part, ...] = ()
    known_svd: Svd | None = None

    def __post_init__(self) -> None:
        """Check the factors, which have to be finite."""
        up, down = _floats(self.up_factor), _floats(self.down_factor)
        if up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0]:
            raise ValueError(f"factors of shapes {up.shape} and {down.shape} do not make a matrix")
        object.__setattr__(self, "up_factor", up)
        object.__setattr__(self, "down_factor", down)

    @classmethod
    def from_svd(cls, left: Array, values: Array, right: Array) -> FactoredMatrix:
        """Return the matrix `left diag(values) right^T`; see `Svd` for the shapes."""
        return cls(left * values, right.T, known_svd=Svd(left, values, right))

    @property
    def up(self) -> Array:
        """`(out, r)` in float64, with the scale in it."""
        wide = self.up_factor.astype(np.float64, copy=False)
        return wide if self.scale == 1.0 else wide * self.scale

    @property
    def down(self) -> Array:
        """`(r, in)` in float64."""
        return self.down_factor.astype(np.float64, copy=False)

    @property
    def shape(self) -> tuple[int, int]:
        """`(out, in)` of the product."""
        return self.up_factor.shape[0], self.down_factor.shape[1]

    @property
    def inner_rank(self) -> int:
        """The width r of the factors; the rank of the product is at most this."""
        return int(self.up_factor.shape[1])

    @property
    def T(self) -> FactoredMatrix:
        """The transpose, `(in, out)`."""
        return FactoredMatrix(self.down_factor.T, self.up_factor.T, self.scale)

    def scaled(self, factor: float) -> FactoredMatrix:
        """Return this matrix times a number."""
        return FactoredMatrix(self.up_factor, self.down_factor, self.scale * factor)

    def with_parts(self, parts: tuple[Part, ...]) -> FactoredMatrix:
        """Return the same matrix, known to be a Kronecker product of these two."""
        return replace(self, parts=parts)

    def dense(self) -> Array:
        """Return the product, `(out, in)`: for tests and small matrices."""
        return self.up @ self.down

    def norm(self) -> float:
        """Return the Frobenius norm; see `Spectrum.norm`."""
        return Spectrum(self).norm()

    def singular_values(self) -> Array:
        """Return the singular values; see `Spectrum.singular_values`."""
        return Spectrum(self).singular_values()

    def svd(self) -> Svd:
        """Return the thin SVD; see `Spectrum.svd`."""
        return Spectrum(self).svd


class Spectrum:
    """Norm, singular values and singular vectors of one matrix; intermediate results are computed once.

    Attributes:
        matrix: the matrix.

    """

    def __init__(self, matrix: FactoredMatrix, grams: Grams | None = None) -> None:
        """Take a matrix and, where they are known, `up^T up` and `down down^T` in float64, with the scale in them."""
        self.matrix = matrix
        self._known_grams = grams

    @cached_property
    def grams(self) -> Grams:
        """`up^T up` and `down down^T`, `(r, r)` each."""
        if self._known_grams is not None:
            return self._known_grams
        matrix = self.matrix
        return Grams(gram(matrix.up_factor) * matrix.scale**2, gram(matrix.down_factor.T))

    def norm(self) -> float:
        """Return the Frobenius norm, `sqrt(sum((up^T up) * (down down^T)))`; exactly 0 if only rounding is left."""
        known = self.matrix.known_svd
        if known is not None:
            return float(np.linalg.norm(known.values))
        return float(np.linalg.norm(self.singular_values())) if self.cancels else math.sqrt(self._square)

    def singular_values(self) -> Array:
        """Return the singular values, largest first, `(min(r, out, in),)`; those below the rounding error are 0."""
        return self._zero_below_rounding(self._values)

    @cached_property
    def svd(self) -> Svd:
        """The thin SVD cut at the numerical rank k: left `(out, k)`, values `(k,)` largest first, right `(in, k)`."""
        svd = self.matrix.known_svd or self._thin_svd()
        values = self._zero_below_rounding(svd.values)
        kept = int(np.count_nonzero(values))
        return Svd(svd.left, values, svd.right).cut(kept)

    def rank(self) -> int:
        """Return the numerical rank: the number of singular values above the rounding error."""
        return int(np.count_nonzero(self.singular_values()))

    def effective_rank(self) -> float | None:
        """Return `exp(entropy(s / sum(s)))` of the singular values s, 1..rank; None for a zero matrix.

        Source: Roy and Vetterli, The effective rank (EUSIPCO 2007), equations 2 to 4: singular values, not squares.
        """
        values = self.singular_values()
        values = values[values > 0.0]
        if values.size == 0:
            return None
        shares = values / values.sum()
        return float(np.exp(-np.sum(shares * np.log(shares))))

    def top1_share(self) -> float | None:
        """Return `s_1^2 / sum(s^2)`, the energy of the largest direction, 1/rank..1; None for a zero matrix."""
        squares = self.singular_values() ** 2
        total = float(squares.sum())
        return None if total == 0.0 else float(squares[0]) / total

    def out_basis(self) -> Array:
        """Return orthonormal columns that span the column space, `(out, rank)`: the left singular vectors."""
        return self.svd.left

    def in_basis(self) -> Array:
        """Return orthonormal columns that span the row space, `(in, rank)`: the right singular vectors."""
        return self.svd.right

    @cached_property
    def cancels(self) -> bool:
        """Whether the terms of the product nearly cancel out, so that traces of Gram matrices lose digits."""
        return self._square < CANCELLED * self._size**2

    def stable_matrix(self) -> FactoredMatrix:
        """Return the matrix with factors that do not cancel out: its own, or those of its SVD."""
        if not self.cancels:
            return self.matrix
        left, values, right = self.svd
        return FactoredMatrix(left * values, right.T)

    @cached_property
    def _square(self) -> float:
        """The trace of the product of the Gram matrices: the squared norm, but for cancellation."""
        return float(np.vdot(*self.grams))

    @cached_property
    def _size(self) -> float:
        """`sum_i |up_i| |down_i|`: bounds the norm from above; rounding errors are in proportion to it."""
        return float(np.sqrt(np.diagonal(self.grams.up)) @ np.sqrt(np.diagonal(self.grams.down)))

    @cached_property
    def _values(self) -> Array:
        """Singular values, rounding included."""
        if self.matrix.known_svd is not None:
            return self.matrix.known_svd.values
        out_triangle, in_triangle = self._triangles()
        return np.asarray(np.linalg.svd(out_triangle @ in_triangle.T, compute_uv=False))

    def _triangles(self) -> tuple[Array, Array]:
        """The triangles of thin QRs of up and of down^T, by Cholesky where that loses no digits and saves time."""
        if SMALL_RANK <= self.matrix.inner_rank <= min(self.matrix.shape):
            try:
                upper = cholesky(np.stack(self.grams)).upper
            except np.linalg.LinAlgError:
                pass
            else:
                return upper[0], upper[1]
        return thin_qr(self.matrix.up)[1], thin_qr(self.matrix.down.T)[1]

    def _thin_svd(self) -> Svd:
        out_basis, out_triangle = thin_qr(self.matrix.up)
        in_basis, in_triangle = thin_qr(self.matrix.down.T)
        left, values, right = np.linalg.svd(out_triangle @ in_triangle.T, full_matrices=False)
        return Svd(out_basis @ left, np.asarray(values), in_basis @ right.T)

    def _zero_below_rounding(self, values: Array) -> Array:
        limit = EPSILON * max(*self.matrix.shape, self.matrix.inner_rank) * self._size
        kept: Array = np.where(values > limit, values, 0.0)
        return kept


def _floats(values: npt.ArrayLike) -> Floats:
    """Return floats as they are, other numbers as float64."""
    numbers = np.asarray(values)
    return numbers if numbers.dtype.kind == "f" and numbers.itemsize <= 8 else numbers.astype(np.float64)
