"""Two low-rank matrices of one shape compared: inner product, cosine, overlaps and angles of their spaces.

All quantities follow from the Gram matrices of the factors side by side, which a pair computes once, in one product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from bwlab.linalg.factored import FactoredMatrix, Grams, Spectrum
from bwlab.linalg.qr import SMALL_RANK, Array, Triangle, cholesky, gram

PartRanks: TypeAlias = tuple[tuple[int, int], ...]
"""`(dimension, rank)` of the spaces whose Kronecker product a space is; empty where it is none."""

# Cosines from Gram matrices are right to 1e-8, which tells angles well up to this.
LARGEST_EXACT_COSINE = 0.99


@dataclass(frozen=True)
class Overlap:
    """How much of two subspaces of R^dimension is shared.

    Attributes:
        shared: `||U_a^T U_b||_F^2`, the number of shared directions, 0..min(ranks).
        rank_a, rank_b: dimensions of the subspaces, at least 1.
        dimension: the dimension of the space that contains them.
        parts_a, parts_b: the parts of subspaces that are Kronecker products.

    """

    shared: float
    rank_a: int
    rank_b: int
    dimension: int
    parts_a: PartRanks = ()
    parts_b: PartRanks = ()

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


class FactorPair:
    """Two matrices of one shape, and what they share. Every property is computed once, when it is first asked for.

    Attributes:
        shape: `(out, in)` of both.

    """

    def __init__(self, a: FactoredMatrix, b: FactoredMatrix) -> None:
        """Take two matrices; ValueError if their shapes differ."""
        if a.shape != b.shape:
            raise ValueError(f"no comparison of matrices of the shapes {a.shape} and {b.shape}")
        self._matrices = a, b
        self.shape = a.shape

    @cached_property
    def a(self) -> Spectrum:
        """The first matrix: its norm and spectrum."""
        own, matrix = slice(None, self._split), self._matrices[0]
        return Spectrum(matrix, self._joint(own, own, matrix.scale**2))

    @cached_property
    def b(self) -> Spectrum:
        """The second matrix: its norm and spectrum."""
        own, matrix = slice(self._split, None), self._matrices[1]
        return Spectrum(matrix, self._joint(own, own, matrix.scale**2))

    @cached_property
    def cross_grams(self) -> Grams:
        """`up_a^T up_b` and `down_a down_b^T`, `(r_a, r_b)` each."""
        a, b = self._matrices
        return self._joint(slice(None, self._split), slice(self._split, None), a.scale * b.scale)

    @cached_property
    def inner(self) -> float:
        """The inner product `trace(a^T b) = sum((up_a^T up_b) * (down_a down_b^T))`."""
        if self.a.cancels or self.b.cancels:
            stable = FactorPair(self.a.stable_matrix(), self.b.stable_matrix())
            return float(np.vdot(*stable.cross_grams))
        return float(np.vdot(*self.cross_grams))

    @property
    def cosine(self) -> float | None:
        """`inner / (norm norm)`, -1..1; None where either matrix is zero, since a zero matrix has no direction."""
        norms = self.a.norm() * self.b.norm()
        return None if norms == 0.0 else min(1.0, max(-1.0, self.inner / norms))

    @cached_property
    def out_overlap(self) -> Overlap | None:
        """The overlap of the column spaces, which the matrices write into; None where either matrix is zero."""
        parts = [tuple((part.out, part.rank) for part in matrix.parts) for matrix in self._matrices]
        if self._basis_products is not None:
            return _overlap(self._basis_products[0], self.shape[0], *parts)
        return _overlap(self.a.out_basis().T @ self.b.out_basis(), self.shape[0], *parts)

    @cached_property
    def in_overlap(self) -> Overlap | None:
        """The overlap of the row spaces, which the matrices read from; None where either matrix is zero."""
        parts = [tuple((part.inner, part.rank) for part in matrix.parts) for matrix in self._matrices]
        if self._basis_products is not None:
            return _overlap(self._basis_products[1], self.shape[1], *parts)
        return _overlap(self.a.in_basis().T @ self.b.in_basis(), self.shape[1], *parts)

    @cached_property
    def smallest_angle(self) -> float | None:
        """The first of `principal_angles`, computed faster if it is not small; None if a matrix is zero."""
        if self._basis_products is not None:
            cosine = _largest_singular_value(self._basis_products[0])
            if cosine < LARGEST_EXACT_COSINE:
                return math.acos(cosine)
        angles = self.principal_angles()
        return float(angles[0]) if angles.size else None

    def principal_angles(self) -> Array:
        """Return the angles between the column spaces in radians, 0..pi/2, smallest first, `(min(rank_a, rank_b),)`.

        Cosines alone lose every angle under 1e-8, sines those near pi/2; `atan2(sine, cosine)` keeps both.
        Source: Bjorck and Golub, Numerical methods for computing angles between linear subspaces (1973).
        """
        wide, thin = self.a.out_basis(), self.b.out_basis()
        if wide.shape[1] < thin.shape[1]:
            wide, thin = thin, wide
        if thin.shape[1] == 0:
            return np.zeros(0)
        product = wide.T @ thin
        cosines = np.linalg.svd(product, compute_uv=False)
        sines = np.linalg.svd(thin - wide @ product, compute_uv=False)[::-1]
        angles: Array = np.arctan2(sines, cosines)
        return angles

    @property
    def _split(self) -> int:
        """The first row and column of b in the Gram matrices of both side by side."""
        return self._matrices[0].inner_rank

    @cached_property
    def _gram_of_both(self) -> Grams:
        """Gram matrices of `[up_a, up_b]` and `[down_a^T, down_b^T]`, without scales, `(r_a + r_b, r_a + r_b)` each."""
        a, b = self._matrices
        return Grams(gram(a.up_factor, b.up_factor), gram(a.down_factor.T, b.down_factor.T))

    def _joint(self, rows: slice, columns: slice, scale: float) -> Grams:
        up, down = (product[rows, columns] for product in self._gram_of_both)
        return Grams(up if scale == 1.0 else up * scale, down)

    @cached_property
    def _basis_products(self) -> tuple[Array, Array] | None:
        """`Q_a^T Q_b` of the column and of the row spaces, `(r_a, r_b)` each; None where triangles do not give them.

        Each factor is `A = Q R`, so that `Q_a^T Q_b = R_a^-T A^T B R_b^-1`.
        """
        ranks = [matrix.inner_rank for matrix in self._matrices]
        if min(ranks) < SMALL_RANK or max(ranks) > min(self.shape):
            return None
        try:
            a, b = self._triangles()
        except np.linalg.LinAlgError:
            return None
        out, inner = (
            left.T @ product @ right
            for left, product, right in zip(a.inverse, self.cross_grams, b.inverse, strict=True)
        )
        return out, inner

    def _triangles(self) -> tuple[Triangle, Triangle]:
        """Upper triangles of thin QRs of each matrix's up and down^T; all four at once take less time."""
        a, b = self.a.grams, self.b.grams
        if a.up.shape != b.up.shape:
            return cholesky(np.stack(a)), cholesky(np.stack(b))
        both = cholesky(np.stack([*a, *b]))
        return both[:2], both[2:]


def _overlap(product: Array, dimension: int, parts_a: PartRanks, parts_b: PartRanks) -> Overlap | None:
    """Return the overlap of subspaces of R^dimension whose orthonormal bases have this product, `(rank_a, rank_b)`."""
    rank_a, rank_b = product.shape
    if rank_a == 0 or rank_b == 0:
        return None
    return Overlap(float(np.vdot(product, product)), rank_a, rank_b, dimension, parts_a, parts_b)


def _largest_singular_value(matrix: Array) -> float:
    """Return the largest singular value, by the eigenvalues of the smaller Gram matrix, as exact as by an SVD."""
    thin = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    return math.sqrt(max(0.0, float(np.linalg.eigvalsh(thin.T @ thin)[-1])))
