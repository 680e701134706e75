"""GLoRA: `s * (W a1 a2 + b1 b2)`, `s = alpha / rank`, with the base weight W.

Source: One-for-All, Chavan et al. (arXiv 2306.07967), equation 10, in the low-rank form of LyCORIS: a1 `(in, r)`,
a2 `(r, in)`, b1 `(out, r)`, b2 `(r, in, k, k)`. Its first releases stored them the other way round: a1 `(r, in)`,
a2 `(in, r)`, b1 `(r, in)`, b2 `(out, r)`, with a2 a1 and b2 b1.
"""

from __future__ import annotations

import math
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
)

NAMES = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")


class Glora(Algorithm):
    """A low-rank change plus a low-rank multiple of the weight."""

    name = "glora"
    leaves = frozenset(NAMES)
    needs_base = True

    def shape(self, shapes: Shapes) -> Shape:
        """Return `(out, in)` or `(out, in, k, k)`."""
        a1, a2, b1, b2 = (shapes[name] for name in NAMES)
        left, inner = (b1, b2) if _is_new(shapes) else (b2, b1)
        fits = left[1] == inner[0] and math.prod(left[2:]) == 1 and inner[1] in (*a1[:2], *a2[:2])
        if not fits or 0 in (*a1, *a2, *b1, *b2):
            raise UnfitLeaves(f"a1 {a1}, a2 {a2}, b1 {b1} and b2 {b2} do not make one delta")
        return (left[0], *inner[1:])

    def rank(self, shapes: Shapes) -> int:
        """Return the inner dimension of the four matrices."""
        return shapes["a2.weight"][0] if _is_new(shapes) else shapes["a1.weight"][0]

    def delta(self, leaves: Leaves, alpha: float | None, base: Numbers | None) -> Numbers:
        """Return `s * (W a1 a2 + b1 b2)` in W's shape; for a convolution, a1 a2 mixes its input channels."""
        assert base is not None
        shapes = shapes_of(leaves)
        a1, a2, b1, b2 = (flat(leaves[name]) for name in NAMES)
        inner, added = (a1 @ a2, b1 @ b2) if _is_new(shapes) else (a2 @ a1, b2 @ b1)
        mixed = np.einsum("oik,ij->ojk", base.reshape(*base.shape[:2], -1), inner)
        scale = scale_of(alpha, self.rank(shapes))
        change: Numbers = (mixed.reshape(base.shape) + added.reshape(base.shape)) * scale
        return change

    def linear_leaves(self, names: Collection[str]) -> tuple[str, ...]:
        """Return one leaf of each of the two products."""
        return ("a1.weight", "b1.weight")


def _is_new(shapes: Shapes) -> bool:
    a1, a2, b1, b2 = (shapes[name] for name in NAMES)
    if min(len(a1), len(a2), len(b1), len(b2)) < 2:
        raise UnfitLeaves(f"a1 {a1}, a2 {a2}, b1 {b1} and b2 {b2} are not matrices")
    return a1[1] == a2[0] == b1[1] == b2[0]
