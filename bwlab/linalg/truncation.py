"""Sums and low-rank approximations of matrices, with their errors, for merging, resizing and extracting adapters.

Everything is computed in float64 with numpy. The factors are balanced: each singular value is split between both, so
that neither factor overflows half precision if the product does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bwlab.linalg.factored import EPSILON, FactoredMatrix
from bwlab.linalg.qr import Array, thin_qr

# Below this side a whole eigendecomposition takes milliseconds.
SMALL_SIDE = 128
SPARE = 10
CONVERGED = 1e-7
MOST_STEPS = 50


@dataclass(frozen=True, eq=False)
class Truncation:
    """A low-rank approximation of a matrix.

    Attributes:
        matrix: the approximation.
        energy: squared Frobenius norm of the approximated matrix.
        lost: squared Frobenius norm of the difference, at least 0.

    """

    matrix: FactoredMatrix
    energy: float
    lost: float

    @property
    def kept(self) -> float:
        """The share of the energy that is kept, 0..1; 1 for a zero matrix."""
        return kept_share(self.energy, self.lost)

    @property
    def error(self) -> float:
        """The relative error in the Frobenius norm, 0..1."""
        return relative_error(self.energy, self.lost)


def kept_share(energy: float, lost: float) -> float:
    """`1 - lost / energy`, 0..1; 1 for a zero matrix."""
    return 1.0 if energy == 0 else max(0.0, 1 - lost / energy)


def relative_error(energy: float, lost: float) -> float:
    """`sqrt(lost / energy)`, 0..1; 0 for a zero matrix."""
    return 0.0 if energy == 0 else math.sqrt(min(1.0, lost / energy))


def concatenated(matrices: Sequence[FactoredMatrix]) -> FactoredMatrix:
    """Return the exact sum of matrices of one shape: their ups side by side, their downs on top of each other.

    Raises:
        ValueError: there are no matrices, or their shapes differ.

    """
    if len({matrix.shape for matrix in matrices}) != 1:
        raise ValueError(f"no sum of matrices of the shapes {[matrix.shape for matrix in matrices]}")
    ups, downs = [matrix.up for matrix in matrices], [matrix.down for matrix in matrices]
    return FactoredMatrix(np.concatenate(ups, axis=1), np.concatenate(downs, axis=0))


def truncate(matrix: FactoredMatrix, rank: int) -> Truncation:
    """Return the nearest matrix of at most this rank (>= 1), never multiplied out: two thin QRs and a small SVD.

    Source: Eckart and Young, The approximation of one matrix by another of lower rank (1936).
    """
    left, values, right = matrix.svd()
    roots = np.sqrt(values[:rank])
    near = FactoredMatrix(left[:, :rank] * roots, (right[:, :rank] * roots).T)
    return Truncation(near, float(np.sum(values**2)), float(np.sum(values[rank:] ** 2)))


def truncate_dense(matrix: Array, rank: int) -> Truncation:
    """Return the nearest matrix of at most this rank (>= 1) to a dense one `(out, in)`, with its measured error.

    Small matrices, and ranks above a quarter of the shorter side, go through the eigenvectors of its Gram matrix: as
    exact as float64 allows for singular values above 1e-8 of the largest. Others go through iterated subspaces until
    a step finds less than 1e-7 of the energy more, which leaves out less than 2e-5 of it even where the best rank
    keeps next to nothing (noise). Either way the error is that of the returned factors.

    Source: Halko, Martinsson and Tropp, Finding structure with randomness (SIAM Review 53, 2011), algorithm 4.4.
    """
    out, inner = matrix.shape
    if out > inner:
        turned = truncate_dense(matrix.T, rank)
        return Truncation(turned.matrix.T, turned.energy, turned.lost)
    energy = float(np.sum(matrix**2))
    if out <= SMALL_SIDE or 4 * rank > out:
        _, vectors = np.linalg.eigh(matrix @ matrix.T)
        basis = vectors[:, ::-1][:, :rank]
    else:
        basis = _leading_basis(matrix, rank, energy)
    projected = basis.T @ matrix
    values = np.linalg.norm(projected, axis=1)
    kept = values > EPSILON * max(out, inner) * math.sqrt(energy)
    roots = np.sqrt(values[kept])
    near = FactoredMatrix(basis[:, kept] * roots, projected[kept] / roots[:, None])
    return Truncation(near, energy, max(0.0, energy - float(np.sum(values**2))))


def _leading_basis(matrix: Array, rank: int, energy: float) -> Array:
    """Orthonormal columns `(out, rank)` near the leading left singular vectors of a wide matrix."""
    # Any start will do that is in general position; a fixed one makes equal inputs give equal files.
    start = np.random.default_rng(0).standard_normal((matrix.shape[1], rank + max(SPARE, rank // 2)))
    block, captured = thin_qr(matrix @ start)[0], 0.0
    for step in range(MOST_STEPS):
        projected = block.T @ matrix
        values, turns = np.linalg.eigh(projected @ projected.T)
        capturing = float(values[::-1][:rank].sum())
        if capturing - captured <= CONVERGED * energy or step == MOST_STEPS - 1:
            break
        captured = capturing
        block = thin_qr(matrix @ projected.T)[0]
    basis: Array = block @ turns[:, ::-1][:, :rank]
    return basis
