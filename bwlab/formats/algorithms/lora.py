"""LoRA, LoCon and their Tucker form: `s * up @ down`, `s = alpha / rank`.

Sources: LoRA, Hu et al. (arXiv 2106.09685), section 4.1; LoCon and Tucker: LyCORIS, Yeh et al. (arXiv 2309.14859),
section 3.1 and appendix on Tucker decomposition.
"""

from __future__ import annotations

import math

import numpy as np

from bwlab.formats.algorithms.algorithm import Algorithm, Leaves, Numbers, Shape, Shapes, UnfitLeaves, flat, scale_of

DOWN, UP, MID = "lora_down.weight", "lora_up.weight", "lora_mid.weight"


def rank(shapes: Shapes) -> int:
    """Return the rows of down."""
    return shapes[DOWN][0]


def shape(shapes: Shapes) -> Shape:
    """`(out, in)` or `(out, in, k, k)`.

    down is `(r, in)` or `(r, in, k, k)`, up `(out, r)` or `(out, r, 1, 1)`; with a Tucker core `(r, r, k, k)` down is
    `(r, in, 1, 1)`.
    """
    down, up, mid = shapes[DOWN], shapes[UP], shapes.get(MID)
    fits = len(down) >= 2 and len(up) >= 2 and up[1] == down[0] > 0 and math.prod(up[2:]) == 1 and 0 not in (*up, *down)
    if mid is not None:
        fits = fits and len(mid) == 4 and mid[0] == up[1] and mid[1] == down[0] and math.prod(down[2:]) == 1
    if not fits:
        core = f", mid {mid}" if mid is not None else ""
        raise UnfitLeaves(f"up {up}{core} and down {down} do not make one delta")
    return (up[0], down[1], *(down[2:] if mid is None else mid[2:]))


def factors(leaves: Leaves, alpha: float | None) -> tuple[Numbers, Numbers, float]:
    """Up `(out, r)`, down `(r, in * k * k)` and s; a Tucker core is multiplied into down."""
    down = flat(leaves[DOWN])
    core = leaves.get(MID)
    if core is not None:
        down = flat(np.einsum("mnhw,nj->mjhw", core, down))
    return flat(leaves[UP]), down, scale_of(alpha, leaves[DOWN].shape[0])


def delta(leaves: Leaves, alpha: float | None, _base: Numbers | None = None) -> Numbers:
    """`s * up @ down` in the shape of the weight."""
    up, down, scale = factors(leaves, alpha)
    return ((up if scale == 1.0 else up * scale) @ down).reshape(
        shape({leaf: values.shape for leaf, values in leaves.items()})
    )


LORA = Algorithm(
    "lora",
    lambda leaves: bool({DOWN, UP} & leaves) and MID not in leaves,
    frozenset({DOWN, UP}),
    shape,
    rank,
    delta,
    factors=factors,
    factors_are_leaves=True,
)
TUCKER = Algorithm(
    "tucker",
    lambda leaves: MID in leaves,
    frozenset({DOWN, UP, MID}),
    shape,
    rank,
    delta,
    factors=factors,
)
