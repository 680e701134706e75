"""diag-OFT and BOFT: the weight is turned by orthogonal blocks, `delta = R W - W`; alpha is the constraint, no scale.

Sources: OFT, Qiu et al. (arXiv 2306.07280), section 4: R = (I + Q)(I - Q)^-1 with Q skew; BOFT, Liu et al. (arXiv
2311.06243), section 4: m such stages, stage i mixing rows 2^i * b / 2 apart. As LyCORIS has it, blocks act as their
transposes in diag-OFT, Q is shrunk to the norm alpha * out, and `rescale` `(out, 1, ...)` multiplies the result.
"""

from __future__ import annotations

import numpy as np

from bwlab.formats.algorithms.algorithm import Algorithm, Leaves, Numbers, Shape, Shapes, UnfitLeaves, flat

BLOCKS, RESCALE = "oft_blocks", "rescale"


def cayley(blocks: Numbers, constraint: float) -> Numbers:
    """Orthogonal `(..., b, b)` from any `(..., b, b)`; a constraint above 0 bounds the norm of all Q together."""
    skew = blocks - np.swapaxes(blocks, -1, -2)
    norm = float(np.linalg.norm(skew)) + 1e-8
    if 0 < constraint < norm:
        skew = skew * (constraint / norm)
    eye = np.eye(blocks.shape[-1], dtype=blocks.dtype)
    # (I + Q)(I - Q)^-1; both factors are functions of Q, so their order does not matter.
    return np.linalg.solve(eye - skew, eye + skew)


def oft_delta(leaves: Leaves, alpha: float | None, base: Numbers | None) -> Numbers:
    """`rescale * blockdiag(R^T) W - W`, in the shape of the base weight W."""
    assert base is not None
    blocks = leaves[BLOCKS]
    count, size, _ = blocks.shape
    turned = np.swapaxes(cayley(blocks, (alpha or 0.0) * count * size), 1, 2) @ base.reshape(count, size, -1)
    return _rescaled(turned.reshape(base.shape), leaves) - base


def boft_delta(leaves: Leaves, alpha: float | None, base: Numbers | None) -> Numbers:
    """`rescale * butterfly(W) - W`, in the shape of the base weight W."""
    assert base is not None
    blocks = leaves[BLOCKS]
    stages, count, size, _ = blocks.shape
    turns = cayley(blocks, (alpha or 0.0) * count * size)
    weight = flat(base)
    for stage in range(stages):
        weight = _butterfly(weight, turns[stage], 2**stage * size // 2)
    return _rescaled(weight.reshape(base.shape), leaves) - base


def shape(shapes: Shapes) -> Shape | None:
    """None: the leaves tell the rows only. Raises `UnfitLeaves` where they are no square blocks."""
    blocks, rescale = shapes[BLOCKS], shapes.get(RESCALE)
    rows = blocks[-2] * blocks[-3] if len(blocks) in (3, 4) else 0
    if not rows or blocks[-1] != blocks[-2]:
        raise UnfitLeaves(f"oft_blocks {blocks} are no square blocks")
    if rescale is not None and rescale[:1] != (rows,):
        raise UnfitLeaves(f"rescale {rescale} does not fit oft_blocks {blocks} for {rows} rows")
    return None


def _butterfly(weight: Numbers, turns: Numbers, half: int) -> Numbers:
    """Rows `half` apart are brought together, each block is turned, and the rows go back: one stage of BOFT."""
    columns, (count, size, _) = weight.shape[1], turns.shape
    together = weight.reshape(-1, 2, half, columns).swapaxes(1, 2).reshape(count, size, columns)
    return (turns @ together).reshape(-1, half, 2, columns).swapaxes(1, 2).reshape(-1, columns)


def _rescaled(weight: Numbers, leaves: Leaves) -> Numbers:
    if RESCALE not in leaves:
        return weight
    return weight * leaves[RESCALE].reshape(-1, *(1 for _ in weight.shape[1:]))


def _no_rank(_shapes: Shapes) -> None:
    return None


# Told apart by the number of dimensions of oft_blocks, in algorithms.algorithm_of.
OFT = Algorithm(
    "oft", lambda leaves: BLOCKS in leaves, frozenset({BLOCKS, RESCALE}), shape, _no_rank, oft_delta, needs_base=True
)
BOFT = Algorithm(
    "boft", lambda leaves: BLOCKS in leaves, frozenset({BLOCKS, RESCALE}), shape, _no_rank, boft_delta, needs_base=True
)
