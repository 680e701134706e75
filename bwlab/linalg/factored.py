"""A low-rank product `up @ down` as a value with its own norm, spectrum and inner product, never multiplied out.

Only numpy; every product is that of float64, whatever floats the factors are held in. The idea of the value is
TransformerLens' `FactoredMatrix`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from bwlab.linalg.qr import SMALL_RANK, Floats, Triangle, cholesky, gram, thin_qr

Array = npt.NDArray[np.float64]

Found = TypeVar("Found")
Parts: TypeAlias = tuple[tuple[int, int], ...]

EPSILON = float(np.finfo(np.float64).eps)
# Below this square of norm / sum_i |up_i| |down_i| the traces have lost too many digits to cancellation.
CANCELLED = 1e-8
# Cosines from Gram matrices, right to 1e-8, tell angles well up to this.
TELLING_COSINE = 0.99


@dataclass(frozen=True)
class Part:
    """One matrix of a Kronecker product: its shape and rank."""

    out: int
    inner: int
    rank: int


@dataclass(frozen=True)
class Overlap:
    """How much of two subspaces of R^dimension is shared.

    Attributes:
        shared: `||U_a^T U_b||_F^2`, the number of shared directions, 0..min(ranks).
        rank_a, rank_b: dimensions of the subspaces, at least 1.
        dimension: of the space around them.
        parts_a, parts_b: `(dimension, rank)` of the two subspaces whose Kronecker product each is; empty where it is
            none.

    """

    shared: float
    rank_a: int
    rank_b: int
    dimension: int
    parts_a: Parts = ()
    parts_b: Parts = ()

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


class FactoredMatrix:
    """The matrix `scale * up @ down` of shape `(out, in)`, held as its factors.

    Of a convolution, `in` is channels x k x k.
    """

    def __init__(self, up: Floats, down: Floats, scale: float = 1.0) -> None:
        """Take the factors, which have to be finite; half and single precision are widened where they are needed.

        Args:
            up: `(out, r)`.
            down: `(r, in)`.
            scale: alpha / rank, where it is not yet in `up`.

        Raises:
            ValueError: the factors are not two matrices that can be multiplied.

        """
        self._up, self._down, self._scale = _floats(up), _floats(down), scale
        self.parts: tuple[Part, ...] = ()
        """Of a Kronecker product its two matrices, where they are known: its spaces are products of theirs."""
        if self._up.ndim != 2 or self._down.ndim != 2 or self._up.shape[1] != self._down.shape[0]:
            raise ValueError(f"factors of shapes {self._up.shape} and {self._down.shape} do not make a matrix")

    @cached_property
    def up(self) -> Array:
        """`(out, r)`, with the scale in it."""
        wide = self._up.astype(np.float64, copy=False)
        return wide if self._scale == 1.0 else wide * self._scale

    @cached_property
    def down(self) -> Array:
        """`(r, in)`."""
        return self._down.astype(np.float64, copy=False)

    @classmethod
    def from_svd(cls, left: Array, values: Array, right: Array) -> FactoredMatrix:
        """Return the matrix `left diag(values) right^T`, which then knows its singular vectors without computing them.

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
        return self._up.shape[0], self._down.shape[1]

    @property
    def inner_rank(self) -> int:
        """The width r of the factors; the rank of the product is at most this."""
        return int(self._up.shape[1])

    @property
    def T(self) -> FactoredMatrix:
        """The transpose, `(in, out)`."""
        return FactoredMatrix(self._down.T, self._up.T, self._scale)

    def dense(self) -> Array:
        """Return the product, `(out, in)`: for tests and small matrices."""
        return self.up @ self.down

    def scaled(self, factor: float) -> FactoredMatrix:
        """This matrix times a number."""
        return FactoredMatrix(self._up, self._down, self._scale * factor)

    def norm(self) -> float:
        """Return the Frobenius norm, `sqrt(sum((up^T up) * (down down^T)))`; exactly 0 where rounding alone is left."""
        square = self._square
        if square < CANCELLED * self._size**2:
            return float(np.linalg.norm(self.singular_values()))
        return math.sqrt(square)

    def inner(self, other: FactoredMatrix) -> float:
        """`trace(self^T other) = sum((up_a^T up_b) * (down_a down_b^T))`; ValueError if the shapes differ."""
        if self.shape != other.shape:
            raise ValueError(f"no inner product between shapes {self.shape} and {other.shape}")
        self.cross_grams(other)  # Before the Gram matrices of each alone, which come with it.
        up, down = self._without_cancellation.cross_grams(other._without_cancellation)
        return float(np.vdot(up, down))

    def cross_grams(self, other: FactoredMatrix) -> tuple[Array, Array]:
        """`up_a^T up_b` and `down_a down_b^T`, `(r_a, r_b)` each: all that two matrices share is told by these.

        Those of the last partner are kept, as several measures of one pair need them. With them come the Gram matrices
        of both, so a pair costs least where this is asked for first.
        """
        return self._kept_with(other, "_crossed_last", self._found_crossed)

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
        """Return the numerical rank: how many singular values are more than rounding."""
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
        """Return the overlap of the column spaces (what is written); None where either matrix is zero."""
        between, parts = self._between(other), (self._out_parts, other._out_parts)
        if between is not None:
            return _overlap_of(between[0], self.shape[0], parts)
        return _overlap(self.out_basis(), other.out_basis(), parts)

    def in_overlap(self, other: FactoredMatrix) -> Overlap | None:
        """Return the overlap of the row spaces (what is listened to); None where either matrix is zero."""
        between, parts = self._between(other), (self._in_parts, other._in_parts)
        if between is not None:
            return _overlap_of(between[1], self.shape[1], parts)
        return _overlap(self.in_basis(), other.in_basis(), parts)

    def smallest_angle(self, other: FactoredMatrix) -> float | None:
        """Return the smallest of the `principal_angles`, found faster where it is no small one; None if a matrix is zero."""
        between = self._between(other)
        if between is not None:
            cosine = float(np.linalg.svd(between[0], compute_uv=False)[0])
            if cosine < TELLING_COSINE:
                return math.acos(cosine)
        angles = self.principal_angles(other)
        return float(angles[0]) if angles.size else None

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

    def _between(self, other: FactoredMatrix) -> tuple[Array, Array] | None:
        """`Q_a^T Q_b` of the column and of the row spaces, `(r_a, r_b)` each; None where triangles do not tell.

        Of each factor A = Q R, so `Q_a^T Q_b = R_a^-T A^T B R_b^-1`.
        """
        return self._kept_with(other, "_between_last", self._found_between)

    def _found_crossed(self, other: FactoredMatrix) -> tuple[Array, Array]:
        rank, ups, downs = self.inner_rank, gram(self._up, other._up), gram(self._down.T, other._down.T)
        for matrix, own in ((self, slice(None, rank)), (other, slice(rank, None))):
            matrix.__dict__.setdefault("up_gram", ups[own, own] * matrix._scale**2)
            matrix.__dict__.setdefault("down_gram", downs[own, own])
        return ups[:rank, rank:] * (self._scale * other._scale), downs[:rank, rank:]

    def _kept_with(self, other: FactoredMatrix, name: str, find: Callable[[FactoredMatrix], Found]) -> Found:
        """Return what `find` gives for `other`, kept under a name until another partner is asked about."""
        kept: tuple[FactoredMatrix, Found] | None = self.__dict__.get(name)
        if kept is None or kept[0] is not other:
            kept = (other, find(other))
            self.__dict__[name] = kept
        return kept[1]

    def _found_between(self, other: FactoredMatrix) -> tuple[Array, Array] | None:
        if self.shape != other.shape or min(self.inner_rank, other.inner_rank) < SMALL_RANK:
            return None
        cross_grams = self.cross_grams(other)  # First: the Gram matrices of each alone come with it.
        self._share_triangles(other)
        a, b = self._triangles, other._triangles
        if a is None or b is None:
            return None
        out, inner = (
            left.T @ product @ right for left, product, right in zip(a.inverse, cross_grams, b.inverse, strict=True)
        )
        return out, inner

    def _share_triangles(self, other: FactoredMatrix) -> None:
        """Have the `_triangles` of both at once, which takes less time, where that is possible."""
        fresh = all("_triangles" not in matrix.__dict__ for matrix in (self, other))
        if fresh and self.inner_rank == other.inner_rank <= min(self.shape):
            try:
                both = cholesky(np.stack([*self._grams, *other._grams]))
            except np.linalg.LinAlgError:
                return  # One of them may have its own all the same.
            self.__dict__["_triangles"], other.__dict__["_triangles"] = both[:2], both[2:]

    @cached_property
    def up_gram(self) -> Array:
        """`up^T up`, `(r, r)`."""
        return gram(self._up) * self._scale**2

    @cached_property
    def down_gram(self) -> Array:
        """`down down^T`, `(r, r)`."""
        return gram(self._down.T)

    @property
    def _out_parts(self) -> Parts:
        return tuple((part.out, part.rank) for part in self.parts)

    @property
    def _in_parts(self) -> Parts:
        return tuple((part.inner, part.rank) for part in self.parts)

    @cached_property
    def _square(self) -> float:
        return float(np.vdot(self.up_gram, self.down_gram))

    @property
    def _grams(self) -> tuple[Array, Array]:
        return self.up_gram, self.down_gram

    @cached_property
    def _triangles(self) -> Triangle | None:
        """Upper triangles `(2, r, r)` of thin QR of up and down^T, by Cholesky; None if that loses digits or time."""
        if self.inner_rank < SMALL_RANK or self.inner_rank > min(self.shape):
            return None
        try:
            return cholesky(np.stack(self._grams))
        except np.linalg.LinAlgError:
            return None

    @cached_property
    def _size(self) -> float:
        """`sum_i |up_i| |down_i|`: bounds the norm from above; rounding errors are in proportion to it."""
        return float(np.sqrt(np.diagonal(self.up_gram)) @ np.sqrt(np.diagonal(self.down_gram)))

    @property
    def _without_cancellation(self) -> FactoredMatrix:
        """This matrix, from other factors where its own nearly cancel out."""
        # Not cached where it is the matrix itself: the cycle would keep its factors alive until a collection.
        return self if self._square >= CANCELLED * self._size**2 else self._from_svd

    @cached_property
    def _from_svd(self) -> FactoredMatrix:
        left, values, right = self.svd
        return FactoredMatrix(left * values, right.T)

    @cached_property
    def _core_values(self) -> Array:
        known = self._triangles
        if known is not None:
            core = known.upper[0] @ known.upper[1].T
        else:
            core = thin_qr(self.up)[1] @ thin_qr(self.down.T)[1].T
        return np.asarray(np.linalg.svd(core, compute_uv=False))

    def _zero_below_rounding(self, values: Array) -> Array:
        limit = EPSILON * max(*self.shape, self.inner_rank) * self._size
        kept: Array = np.where(values > limit, values, 0.0)
        return kept


def _floats(values: npt.ArrayLike) -> Floats:
    """Floats as they are, other numbers as float64."""
    numbers = np.asarray(values)
    return numbers if numbers.dtype.kind == "f" and numbers.itemsize <= 8 else numbers.astype(np.float64)


def _overlap(a: Array, b: Array, parts: tuple[Parts, Parts]) -> Overlap | None:
    """Return the overlap of the spans of two orthonormal bases `(d, r_a)`, `(d, r_b)`; ValueError if their spaces differ."""
    if a.shape[0] != b.shape[0]:
        raise ValueError(f"no overlap between subspaces of R^{a.shape[0]} and R^{b.shape[0]}")
    if a.shape[1] == 0 or b.shape[1] == 0:
        return None
    return _overlap_of(a.T @ b, a.shape[0], parts)


def _overlap_of(product: Array, dimension: int, parts: tuple[Parts, Parts]) -> Overlap:
    """Return the overlap of two subspaces of R^dimension whose orthonormal bases have this product, `(r_a, r_b)`."""
    rank_a, rank_b = product.shape
    return Overlap(float(np.vdot(product, product)), rank_a, rank_b, dimension, *parts)
