"""LoRA, LoCon and their Tucker form: `s * up @ down`, `s = alpha / rank`.

Sources: LoRA, Hu et al. (arXiv 2106.09685), section 4.1; LoCon and Tucker: LyCORIS, Yeh et al. (arXiv 2309.14859),
section 3.1 and appendix on Tucker decomposition.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import ClassVar

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
from bwlab.linalg.factored import FactoredMatrix

DOWN, UP, MID = "lora_down.weight", "lora_up.weight", "lora_mid.weight"


class Lora(Algorithm):
    """Two factors on a linear layer, or a k x k and a 1 x 1 convolution on a convolution (LoCon)."""

    name = "lora"
    leaves = frozenset({DOWN, UP})
    is_product = True
    factor_dtype: ClassVar[type[np.floating] | None] = None  # The factors are the leaves themselves.

    def recognises(self, shapes: Shapes) -> bool:
        """Return whether there is a factor and no Tucker core."""
        return not {DOWN, UP}.isdisjoint(shapes) and MID not in shapes

    def shape(self, shapes: Shapes) -> Shape:
        """Return `(out, in)` or `(out, in, k, k)`.

        down is `(r, in)` or `(r, in, k, k)`, up `(out, r)` or `(out, r, 1, 1)`; with a Tucker core `(r, r, k, k)` down
        is `(r, in, 1, 1)`.
        """
        down, up, core = shapes[DOWN], shapes[UP], shapes.get(MID)
        fits = len(down) >= 2 and len(up) >= 2 and up[1] == down[0] > 0
        fits = fits and math.prod(up[2:]) == 1 and 0 not in (*up, *down)
        if core is not None:
            fits = fits and len(core) == 4 and core[0] == up[1] and core[1] == down[0] and math.prod(down[2:]) == 1
        if not fits:
            between = f", mid {core}" if core is not None else ""
            raise UnfitLeaves(f"up {up}{between} and down {down} do not make one delta")
        return (up[0], down[1], *(down[2:] if core is None else core[2:]))

    def rank(self, shapes: Shapes) -> int:
        """Return the number of rows of down."""
        return shapes[DOWN][0]

    def factored_rank(self, shapes: Shapes) -> int:
        """Return the rank, however large it is: the file holds no smaller form."""
        return self.rank(shapes)

    def factors(self, leaves: Leaves, alpha: float | None) -> FactoredMatrix:
        """Return up `(out, r)` and down `(r, in * k * k)`, with s as a separate scale."""
        return FactoredMatrix(*self._up_down_scale(leaves, alpha))

    def delta(self, leaves: Leaves, alpha: float | None, base: Numbers | None) -> Numbers:
        """Return `s * up @ down` in the shape of the weight; for a convolution, `(out, in, k, k)`."""
        up, down, scale = self._up_down_scale(leaves, alpha)
        return ((up if scale == 1.0 else up * scale) @ down).reshape(self.shape(shapes_of(leaves)))

    def linear_leaves(self, names: Collection[str]) -> tuple[str, ...]:
        """Return up."""
        return (UP,)

    def _up_down_scale(self, leaves: Leaves, alpha: float | None) -> tuple[Numbers, Numbers, float]:
        """Return up `(out, r)`, down `(r, in * k * k)` and s; a Tucker core is multiplied into down."""
        down, core = flat(leaves[DOWN]), leaves.get(MID)
        if core is not None:
            down = flat(np.einsum("mnhw,nj->mjhw", core, down))
        return flat(leaves[UP]), down, scale_of(alpha, leaves[DOWN].shape[0])


class Tucker(Lora):
    """A LoCon whose k x k kernel is a core `(r, r, k, k)` between two 1 x 1 convolutions."""

    name = "tucker"
    leaves = frozenset({DOWN, UP, MID})
    factor_dtype = np.float64

    def recognises(self, shapes: Shapes) -> bool:
        """Return whether there is a Tucker core."""
        return MID in shapes
