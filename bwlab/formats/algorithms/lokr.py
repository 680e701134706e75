"""LoKr: the Kronecker product of two matrices, each whole or low-rank, `s * kron(w1, w2)`.

Sources: KronA, Edalati et al. (arXiv 2212.10650), section 3; LyCORIS, Yeh et al. (arXiv 2309.14859), section 3.3. w1 is
`lokr_w1` or `lokr_w1_a @ lokr_w1_b`; w2 is `lokr_w2`, `lokr_w2_a @ lokr_w2_b`, or, with the core `lokr_t2`, a Tucker
product. If both are whole, the scale is 1, whatever alpha is.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TypeAlias

import numpy as np

from bwlab.formats.algorithms.algorithm import (
    Algorithm,
    Leaves,
    Numbers,
    Shape,
    Shapes,
    UnfitLeaves,
    flat,
    scale_of,
    shapes_of,
    unless_larger,
)
from bwlab.linalg.factored import FactoredMatrix, Part

# One of the two matrices: the factors `(out, r)`, `(r, in)` if it is low-rank, else the matrix `(out, in)`.
PartMatrix: TypeAlias = tuple[Numbers, Numbers] | Numbers


class Lokr(Algorithm):
    """The Kronecker product of two matrices."""

    name = "lokr"
    leaves = frozenset(f"lokr_{leaf}" for leaf in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"))
    is_product = True
    is_kronecker = True

    def shape(self, shapes: Shapes) -> Shape:
        """Return `(out, in, k, k)` if w2 has the kernel; else `(out, in)` or `(out, in * k * k)`."""
        (a, c), (b, d, *kernel) = _part_shape(shapes, "1"), _part_shape(shapes, "2")
        return (a * b, c * d, *kernel)

    def rank(self, shapes: Shapes) -> int | None:
        """Return the inner dimension of a low-rank part (the same for both parts); None if both parts are whole."""
        return next((shapes[leaf][0] for leaf in ("lokr_w2_b", "lokr_w1_b") if leaf in shapes), None)

    def factored_rank(self, shapes: Shapes) -> int | None:
        """Return the product of the parts' ranks; the rank of a whole part is its shorter side."""
        wholes = [shapes.get(f"lokr_w{number}") for number in ("1", "2")]
        low = self.rank(shapes) or 0
        rank = math.prod(low if whole is None else min(whole[0], math.prod(whole[1:])) for whole in wholes)
        return unless_larger(rank, self.shape(shapes))

    def factors(self, leaves: Leaves, alpha: float | None) -> FactoredMatrix:
        """Return the factors from the SVD, whose vectors and values are Kronecker products of those of the parts."""
        (left1, values1, right1), (left2, values2, right2) = (_svd(_part(leaves, number)) for number in ("1", "2"))
        scale = self._scale(leaves, alpha)
        values = np.kron(values1, values2) * abs(scale)
        order = np.argsort(-values)
        first, second = np.divmod(order, len(values2))
        left = _khatri_rao(left1[:, first] * (1.0 if scale >= 0 else -1.0), left2[:, second])
        svd = left, values[order], _khatri_rao(right1[:, first], right2[:, second])
        return FactoredMatrix.from_svd(*(np.asarray(each, np.float64) for each in svd))

    def singular_values(self, leaves: Leaves, alpha: float | None) -> Numbers:
        """Return all products of a singular value of one part and a singular value of the other."""
        first, second = (_svd(_part(leaves, number))[1] for number in ("1", "2"))
        return np.kron(first, second) * abs(self._scale(leaves, alpha))

    def kronecker_parts(self, leaves: Leaves) -> tuple[Part, Part]:
        """Return the two matrices, kernels flattened, with their numerical ranks."""
        return _measured(_part(leaves, "1")), _measured(_part(leaves, "2"))

    def delta(self, leaves: Leaves, alpha: float | None, base: Numbers | None) -> Numbers:
        """Return the product in the shape that the leaves determine."""
        first, second = (_whole(_part(leaves, number)) for number in ("1", "2"))
        return (np.kron(first, second) * self._scale(leaves, alpha)).reshape(self.shape(shapes_of(leaves)))

    def linear_leaves(self, names: Collection[str]) -> tuple[str, ...]:
        """Return w1, or its first factor."""
        return ("lokr_w1",) if "lokr_w1" in names else ("lokr_w1_a",)

    def _scale(self, leaves: Leaves, alpha: float | None) -> float:
        return scale_of(alpha, self.rank(shapes_of(leaves)))


def _part(leaves: Leaves, number: str) -> PartMatrix:
    whole = leaves.get(f"lokr_w{number}")
    if whole is not None:
        return flat(whole)
    a, b, core = leaves[f"lokr_w{number}_a"], leaves[f"lokr_w{number}_b"], leaves.get(f"lokr_t{number}")
    return (flat(a), flat(b)) if core is None else (a.T, flat(np.einsum("mnhw,nj->mjhw", core, b)))


def _svd(matrix: PartMatrix) -> tuple[Numbers, Numbers, Numbers]:
    """Return the SVD `(out, r)`, `(r,)`, `(in, r)` of one part, without multiplying out low-rank factors."""
    if not isinstance(matrix, tuple):
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        return left, values, right.T
    (out_basis, up), (in_basis, down) = np.linalg.qr(matrix[0]), np.linalg.qr(matrix[1].T)
    left, values, right = np.linalg.svd(up @ down.T, full_matrices=False)
    return out_basis @ left, values, in_basis @ right.T


def _khatri_rao(first: Numbers, second: Numbers) -> Numbers:
    """Return the Khatri-Rao product `(a * b, n)` of `(a, n)` and `(b, n)`: the Kronecker product column by column."""
    return (first[:, None] * second).reshape(-1, first.shape[1])


def _whole(matrix: PartMatrix) -> Numbers:
    return matrix[0] @ matrix[1] if isinstance(matrix, tuple) else matrix


def _measured(matrix: PartMatrix) -> Part:
    out, inner = (matrix[0].shape[0], matrix[1].shape[1]) if isinstance(matrix, tuple) else matrix.shape
    _, values, _ = _svd(matrix)
    limit = np.finfo(values.dtype).eps * max(out, inner) * values[0]
    return Part(out, inner, int(np.count_nonzero(values > limit)))


def _part_shape(shapes: Shapes, number: str) -> Shape:
    whole = shapes.get(f"lokr_w{number}")
    if whole is not None:
        factors = [leaf for leaf in (f"lokr_w{number}_a", f"lokr_w{number}_b", f"lokr_t{number}") if leaf in shapes]
        if factors:
            raise UnfitLeaves(f"it has both lokr_w{number} and {factors[0]}, and only one of them can count")
        if len(whole) < 2 or 0 in whole:
            raise UnfitLeaves(f"lokr_w{number} {whole} is not a matrix")
        return whole
    a, b, core = (shapes.get(f"lokr_{leaf}") for leaf in (f"w{number}_a", f"w{number}_b", f"t{number}"))
    if a is None and b is None:
        raise UnfitLeaves(f"it has neither lokr_w{number} nor lokr_w{number}_a")
    if a is None or b is None or len(a) != 2 or len(b) < 2 or 0 in (*a, *b):
        raise UnfitLeaves(f"lokr_w{number}_a {a} and lokr_w{number}_b {b} do not make one matrix")
    if core is None and a[1] == b[0]:
        return (a[0], b[1], *b[2:])
    if core is not None and len(core) == 4 and core[:2] == (a[0], b[0]) and math.prod(b[2:]) == 1:
        return (a[1], b[1], *core[2:])
    raise UnfitLeaves(f"lokr_w{number}_a {a}, lokr_t{number} {core} and lokr_w{number}_b {b} do not make one matrix")
