"""diag-OFT and BOFT: orthogonal blocks R turn the weight, `delta = R W - W`; alpha is the constraint, not a scale.

Sources: OFT, Qiu et al. (arXiv 2306.07280), section 4: R = (I + Q)(I - Q)^-1 with Q skew; BOFT, Liu et al. (arXiv
2311.06243), section 4: m such stages, stage i mixing rows 2^i * b / 2 apart. As in LyCORIS, blocks act as their
transposes in diag-OFT, Q is shrunk to the norm alpha * out, and `rescale` `(out, 1, ...)` multiplies the result.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import ClassVar

import numpy as np

from bwlab.formats.algorithms.algorithm import Algorithm, Leaves, Numbers, Shape, Shapes, UnfitLeaves, flat
from bwlab.formats.tensors import LazyTensor

BLOCKS, RESCALE = "oft_blocks", "rescale"


class Oft(Algorithm):
    """One rotation of blocks of rows: `oft_blocks` `(count, b, b)`."""

    name = "oft"
    leaves = frozenset({BLOCKS, RESCALE})
    needs_base = True
    is_linear = False
    dimensions: ClassVar[int] = 3  # of oft_blocks

    def recognises(self, shapes: Shapes) -> bool:
        """Return whether there are blocks of one stage, or blocks with an invalid number of dimensions."""
        return BLOCKS in shapes and len(shapes[BLOCKS]) != Boft.dimensions

    def shape(self, shapes: Shapes) -> None:
        """Return None: the leaves determine the rows only. Raise `UnfitLeaves` if they are not square blocks."""
        blocks, rescale = shapes[BLOCKS], shapes.get(RESCALE)
        rows = blocks[-2] * blocks[-3] if len(blocks) in (Oft.dimensions, Boft.dimensions) else 0
        if not rows or blocks[-1] != blocks[-2]:
            raise UnfitLeaves(f"oft_blocks {blocks} are not square blocks")
        if rescale is not None and rescale[:1] != (rows,):
            raise UnfitLeaves(f"rescale {rescale} does not fit oft_blocks {blocks} for {rows} rows")

    def fits(self, leaves: Mapping[str, LazyTensor], weight: Shape) -> bool:
        """Return whether the blocks cover the rows of the weight."""
        return math.prod(leaves[BLOCKS].shape[-3:-1]) == weight[0]

    def delta(self, leaves: Leaves, alpha: float | None, base: Numbers | None) -> Numbers:
        """Return `rescale * blockdiag(R^T) W - W`, in the shape of the base weight W."""
        assert base is not None
        blocks = leaves[BLOCKS]
        count, size, _ = blocks.shape
        turned = np.swapaxes(cayley(blocks, (alpha or 0.0) * count * size), 1, 2) @ base.reshape(count, size, -1)
        return _rescaled(turned.reshape(base.shape), leaves) - base

    def linear_leaves(self, names: Collection[str]) -> tuple[str, ...]:
        """Return an empty tuple: no leaf scales the delta."""
        return ()


class Boft(Oft):
    """A butterfly of rotations: `oft_blocks` `(stages, count, b, b)`."""

    name = "boft"
    dimensions = 4

    def recognises(self, shapes: Shapes) -> bool:
        """Return whether there are blocks of several stages."""
        return BLOCKS in shapes and len(shapes[BLOCKS]) == Boft.dimensions

    def delta(self, leaves: Leaves, alpha: float | None, base: Numbers | None) -> Numbers:
        """Return `rescale * butterfly(W) - W`, in the shape of the base weight W."""
        assert base is not None
        blocks = leaves[BLOCKS]
        stages, count, size, _ = blocks.shape
        turns = cayley(blocks, (alpha or 0.0) * count * size)
        weight = flat(base)
        for stage in range(stages):
            weight = _butterfly(weight, turns[stage], 2**stage * size // 2)
        return _rescaled(weight.reshape(base.shape), leaves) - base


def cayley(blocks: Numbers, constraint: float) -> Numbers:
    """Return orthogonal blocks for any blocks `(..., b, b)`; a constraint above 0 bounds the norm of all Q together."""
    skew = blocks - np.swapaxes(blocks, -1, -2)
    norm = float(np.linalg.norm(skew)) + 1e-8
    if 0 < constraint < norm:
        skew = skew * (constraint / norm)
    eye = np.eye(blocks.shape[-1], dtype=blocks.dtype)
    # (I + Q)(I - Q)^-1; both factors are functions of Q, so their order does not matter.
    return np.linalg.solve(eye - skew, eye + skew)


def _butterfly(weight: Numbers, turns: Numbers, half: int) -> Numbers:
    """Apply one stage of BOFT: bring together rows that are `half` apart, rotate each block, and put the rows back."""
    columns, (count, size, _) = weight.shape[1], turns.shape
    together = weight.reshape(-1, 2, half, columns).swapaxes(1, 2).reshape(count, size, columns)
    return (turns @ together).reshape(-1, half, 2, columns).swapaxes(1, 2).reshape(-1, columns)


def _rescaled(weight: Numbers, leaves: Leaves) -> Numbers:
    if RESCALE not in leaves:
        return weight
    return weight * leaves[RESCALE].reshape(-1, *(1 for _ in weight.shape[1:]))
