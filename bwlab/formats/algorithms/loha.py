"""LoHa: the element-wise product of two low-rank matrices, `s * (w1_a @ w1_b) * (w2_a @ w2_b)`.

Sources: FedPara, Hyeon-Woo et al. (arXiv 2108.06098), proposition 2; LyCORIS, Yeh et al. (arXiv 2309.14859), section
3.2. With cores `t1`, `t2` `(r, r, k, k)` each factor is a Tucker product, and `w*_a` is `(r, out)`.
"""

from __future__ import annotations

from collections.abc import Collection

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
from bwlab.linalg.factored import FactoredMatrix

RANK_LEAF = "hada_w1_b"


class Loha(Algorithm):
    """The Hadamard product of two low-rank matrices."""

    name = "loha"
    leaves = frozenset({"hada_w1_a", RANK_LEAF, "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"})
    is_product = True

    def shape(self, shapes: Shapes) -> Shape:
        """Return `(out, in, k, k)` with cores; without cores `(out, in)` or `(out, in * k * k)`, which look alike."""
        first, second = (_matrix_shape(shapes, number) for number in ("1", "2"))
        if first != second:
            raise UnfitLeaves(f"its two factors have the shapes {first} and {second}")
        return first

    def rank(self, shapes: Shapes) -> int:
        """Return the number of rows of `hada_w1_b`; the rank of the delta may be the square of this number."""
        return shapes[RANK_LEAF][0]

    def factored_rank(self, shapes: Shapes) -> int | None:
        """Return the square of the rank, unless such factors are larger than the delta."""
        return unless_larger(self.rank(shapes) ** 2, self.shape(shapes))

    def factors(self, leaves: Leaves, alpha: float | None) -> FactoredMatrix:
        """Return factors of rank r^2: column (i, j) of up is column i of one up times column j of the other."""
        (up1, down1), (up2, down2) = (_factors(leaves, number) for number in ("1", "2"))
        up = (up1[:, :, None] * up2[:, None, :]).reshape(len(up1), -1)
        down = (down1[:, None, :] * down2[None, :, :]).reshape(-1, down1.shape[1])
        return FactoredMatrix(up, down, scale_of(alpha, leaves[RANK_LEAF].shape[0]))

    def delta(self, leaves: Leaves, alpha: float | None, base: Numbers | None) -> Numbers:
        """Return the product in the shape that the leaves determine."""
        (up1, down1), (up2, down2) = (_factors(leaves, number) for number in ("1", "2"))
        product = (up1 @ down1) * (up2 @ down2) * scale_of(alpha, leaves[RANK_LEAF].shape[0])
        return product.reshape(self.shape(shapes_of(leaves)))

    def linear_leaves(self, names: Collection[str]) -> tuple[str, ...]:
        """Return one leaf of the first matrix."""
        return ("hada_w1_a",)


def _factors(leaves: Leaves, number: str) -> tuple[Numbers, Numbers]:
    """Return one of the two low-rank matrices as `(out, r)`, `(r, in * k * k)`."""
    a, b, core = leaves[f"hada_w{number}_a"], leaves[f"hada_w{number}_b"], leaves.get(f"hada_t{number}")
    return (flat(a), flat(b)) if core is None else (a.T, flat(np.einsum("mnhw,nj->mjhw", core, b)))


def _matrix_shape(shapes: Shapes, number: str) -> Shape:
    a, b, core = shapes[f"hada_w{number}_a"], shapes[f"hada_w{number}_b"], shapes.get(f"hada_t{number}")
    # Plain factors are (out, r) and (r, in); Tucker factors are both (r, ...), and the core joins them.
    joined = a[1:] == b[:1] if core is None else len(core) == 4 and core[:2] == (*a[:1], *b[:1])
    if not (joined and len(a) == len(b) == 2 and 0 not in (*a, *b)):
        between = "" if core is None else f", hada_t{number} {core}"
        raise UnfitLeaves(f"hada_w{number}_a {a}{between} and hada_w{number}_b {b} do not make one matrix")
    return (a[0], b[1]) if core is None else (a[1], b[1], *core[2:])
