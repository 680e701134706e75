"""LoHa: the element-wise product of two low-rank matrices, `s * (w1_a @ w1_b) * (w2_a @ w2_b)`.

Sources: FedPara, Hyeon-Woo et al. (arXiv 2108.06098), proposition 2; LyCORIS, Yeh et al. (arXiv 2309.14859), section
3.2. With cores `t1`, `t2` `(r, r, k, k)` each factor is a Tucker product, and `w*_a` is `(r, out)`.
"""

from __future__ import annotations

import numpy as np

from bwlab.formats.algorithms.algorithm import Algorithm, Leaves, Numbers, Shape, Shapes, UnfitLeaves, flat, scale_of

PARTS = ("1", "2")


def rank(shapes: Shapes) -> int:
    """Return the rows of `hada_w1_b`; the rank of the delta may be its square."""
    return shapes["hada_w1_b"][0]


def shape(shapes: Shapes) -> Shape:
    """`(out, in, k, k)` with cores; `(out, in)` or `(out, in * k * k)` without, which then look alike."""
    first, second = (_part_shape(shapes, part) for part in PARTS)
    if first != second:
        raise UnfitLeaves(f"its two factors are of the shapes {first} and {second}")
    return first


def part(leaves: Leaves, number: str) -> tuple[Numbers, Numbers]:
    """One of the two low-rank matrices as `(out, r)`, `(r, in * k * k)`."""
    a, b, core = leaves[f"hada_w{number}_a"], leaves[f"hada_w{number}_b"], leaves.get(f"hada_t{number}")
    return (flat(a), flat(b)) if core is None else (a.T, flat(np.einsum("mnhw,nj->mjhw", core, b)))


def factors(leaves: Leaves, alpha: float | None) -> tuple[Numbers, Numbers, float]:
    """Exact factors of rank r^2: column (i, j) of up is the product of column i of one and column j of the other."""
    (up1, down1), (up2, down2) = (part(leaves, number) for number in PARTS)
    up = (up1[:, :, None] * up2[:, None, :]).reshape(len(up1), -1)
    down = (down1[:, None, :] * down2[None, :, :]).reshape(-1, down1.shape[1])
    return up, down, scale_of(alpha, leaves["hada_w1_b"].shape[0])


def delta(leaves: Leaves, alpha: float | None, _base: Numbers | None = None) -> Numbers:
    """Return the product in the shape of the weight, or `(out, in * k * k)` where the leaves do not tell the kernel."""
    (up1, down1), (up2, down2) = (part(leaves, number) for number in PARTS)
    product = (up1 @ down1) * (up2 @ down2) * scale_of(alpha, leaves["hada_w1_b"].shape[0])
    return product.reshape(shape({leaf: values.shape for leaf, values in leaves.items()}))


def _part_shape(shapes: Shapes, number: str) -> Shape:
    a, b, core = shapes[f"hada_w{number}_a"], shapes[f"hada_w{number}_b"], shapes.get(f"hada_t{number}")
    # Plain factors meet at (out, r) (r, in); Tucker factors are both (r, ...), and the core joins them.
    joined = a[1:] == b[:1] if core is None else len(core) == 4 and core[:2] == (*a[:1], *b[:1])
    if not (joined and len(a) == len(b) == 2 and 0 not in (*a, *b)):
        between = "" if core is None else f", hada_t{number} {core}"
        raise UnfitLeaves(f"hada_w{number}_a {a}{between} and hada_w{number}_b {b} do not make one matrix")
    return (a[0], b[1]) if core is None else (a[1], b[1], *core[2:])


LEAVES = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"})
LOHA = Algorithm(
    "loha",
    lambda leaves: bool(leaves & LEAVES),
    LEAVES,
    shape,
    rank,
    delta,
    factors=factors,
)
