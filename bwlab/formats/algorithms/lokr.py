"""LoKr: the Kronecker product of two matrices, each whole or low-rank, `s * kron(w1, w2)`.

Sources: KronA, Edalati et al. (arXiv 2212.10650), section 3; LyCORIS, Yeh et al. (arXiv 2309.14859), section 3.3. w1 is
`lokr_w1` or `lokr_w1_a @ lokr_w1_b`; w2 is `lokr_w2`, `lokr_w2_a @ lokr_w2_b`, or with the core `lokr_t2` a Tucker
product. Where both are whole the scale is 1, whatever alpha says.
"""

from __future__ import annotations

import math

import numpy as np

from bwlab.formats.algorithms.algorithm import Algorithm, Leaves, Numbers, Shape, Shapes, UnfitLeaves, flat, scale_of
from bwlab.linalg.factored import Part


def rank(shapes: Shapes) -> int | None:
    """Return the inner dimension of a low-rank part (both have the same); None where both parts are whole."""
    for leaf in ("lokr_w2_b", "lokr_w1_b"):
        if leaf in shapes:
            return shapes[leaf][0]
    return None


def shape(shapes: Shapes) -> Shape:
    """`(out, in, k, k)` where w2 tells the kernel; else `(out, in)` or `(out, in * k * k)`, which look alike."""
    (a, c), (b, d, *kernel) = _part_shape(shapes, "1"), _part_shape(shapes, "2")
    return (a * b, c * d, *kernel)


def parts(leaves: Leaves) -> tuple[Part, Part]:
    """Return the two matrices, kernels flattened, with their numerical ranks."""
    first, second = (_measured(part(leaves, number)) for number in ("1", "2"))
    return first, second


def part(leaves: Leaves, number: str) -> tuple[Numbers, Numbers] | Numbers:
    """One of the two matrices: `(out, r)`, `(r, in)` if it is low-rank, else itself `(out, in)`."""
    whole = leaves.get(f"lokr_w{number}")
    if whole is not None:
        return flat(whole)
    a, b, core = leaves[f"lokr_w{number}_a"], leaves[f"lokr_w{number}_b"], leaves.get(f"lokr_t{number}")
    return (flat(a), flat(b)) if core is None else (a.T, flat(np.einsum("mnhw,nj->mjhw", core, b)))


def factors(leaves: Leaves, alpha: float | None) -> tuple[Numbers, Numbers, float]:
    """Exact factors, from kron(a b, c d) = kron(a, c) @ kron(b, d); a whole part takes its shorter side as rank."""
    (up1, down1), (up2, down2) = (_halves(part(leaves, number)) for number in ("1", "2"))
    scale = scale_of(alpha, rank({leaf: values.shape for leaf, values in leaves.items()}))
    return np.kron(up1, up2), np.kron(down1, down2), scale


def svd(leaves: Leaves, alpha: float | None) -> tuple[Numbers, Numbers, Numbers]:
    """Return the singular vectors and values of a Kronecker product are the Kronecker products of those of its parts."""
    (left1, values1, right1), (left2, values2, right2) = (_part_svd(part(leaves, number)) for number in ("1", "2"))
    scale = scale_of(alpha, rank({leaf: values.shape for leaf, values in leaves.items()}))
    values = np.kron(values1, values2) * abs(scale)
    order = np.argsort(-values)
    left = np.kron(left1, left2)[:, order] * (1.0 if scale >= 0 else -1.0)
    return left, values[order], np.kron(right1, right2)[:, order]


def values(leaves: Leaves, alpha: float | None) -> Numbers:
    """Return the singular values of the product, in no order: those of the parts, each times each."""
    first, second = (_part_svd(part(leaves, number))[1] for number in ("1", "2"))
    return np.kron(first, second) * abs(scale_of(alpha, rank({leaf: one.shape for leaf, one in leaves.items()})))


def delta(leaves: Leaves, alpha: float | None, _base: Numbers | None = None) -> Numbers:
    """Return the product in the shape of the weight, or `(out, in * k * k)` where the leaves do not tell the kernel."""
    shapes = {leaf: values.shape for leaf, values in leaves.items()}
    first, second = (_whole(part(leaves, number)) for number in ("1", "2"))
    return (np.kron(first, second) * scale_of(alpha, rank(shapes))).reshape(shape(shapes))


def _part_svd(matrix: tuple[Numbers, Numbers] | Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """`(out, r)`, `(r,)`, `(in, r)` of one part, without multiplying a low-rank one out."""
    if not isinstance(matrix, tuple):
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        return left, values, right.T
    (out_basis, up), (in_basis, down) = np.linalg.qr(matrix[0]), np.linalg.qr(matrix[1].T)
    left, values, right = np.linalg.svd(up @ down.T, full_matrices=False)
    return out_basis @ left, values, in_basis @ right.T


def _whole(matrix: tuple[Numbers, Numbers] | Numbers) -> Numbers:
    return matrix[0] @ matrix[1] if isinstance(matrix, tuple) else matrix


def _halves(matrix: tuple[Numbers, Numbers] | Numbers) -> tuple[Numbers, Numbers]:
    if isinstance(matrix, tuple):
        return matrix
    rows, columns = matrix.shape
    eye = np.eye(min(rows, columns), dtype=matrix.dtype)
    return (eye, matrix) if rows <= columns else (matrix, eye)


def _measured(matrix: tuple[Numbers, Numbers] | Numbers) -> Part:
    out, inner = (matrix[0].shape[0], matrix[1].shape[1]) if isinstance(matrix, tuple) else matrix.shape
    _, values, _ = _part_svd(matrix)
    limit = np.finfo(values.dtype).eps * max(out, inner) * values[0]
    return Part(out, inner, int(np.count_nonzero(values > limit)))


def _part_shape(shapes: Shapes, number: str) -> Shape:
    whole = shapes.get(f"lokr_w{number}")
    if whole is not None:
        if len(whole) < 2 or 0 in whole:
            raise UnfitLeaves(f"lokr_w{number} {whole} is no matrix")
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


LEAVES = frozenset(f"lokr_{leaf}" for leaf in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"))
LOKR = Algorithm(
    "lokr",
    lambda leaves: bool(leaves & LEAVES),
    LEAVES,
    shape,
    rank,
    delta,
    factors=factors,
    values=values,
    svd=svd,
    parts=parts,
)
