"""DoRA: the change of another algorithm, followed by rescaling each row (or column) of the weight to its own length.

Source: DoRA, Liu et al. (arXiv 2402.09353), equation 5: `W' = m * (W + delta) / ||W + delta||`. LyCORIS applies it to
LoHa and LoKr too, keeps one m per output `(out, 1, ...)` or, with `wd_on_output=False`, per input channel
`(1, in, ...)`, and adds the float32 epsilon to the length.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from bwlab.formats.algorithms.algorithm import Algorithm, Leaves, Numbers, Shape, Shapes, UnfitLeaves

MAGNITUDE = "dora_scale"
EPSILON = float(np.finfo(np.float32).eps)


class Dora(Algorithm):
    """Another algorithm whose changed weight is rescaled to the lengths in `dora_scale`.

    It has no low-rank form and no cheap singular values, even if the other algorithm has.
    """

    needs_base = True
    is_linear = False

    def __init__(self, inner: Algorithm, name: str) -> None:
        """Wrap the algorithm that makes the change before the rescaling."""
        self.inner, self.name = inner, name
        self.leaves = inner.leaves | {MAGNITUDE}

    def recognises(self, shapes: Shapes) -> bool:
        """Return whether there are lengths in addition to the leaves of the inner algorithm."""
        return MAGNITUDE in shapes and self.inner.recognises(shapes)

    def shape(self, shapes: Shapes) -> Shape | None:
        """Return the shape of the inner delta; raise `UnfitLeaves` if the lengths do not fit it."""
        plain, size = self.inner.shape(shapes), shapes[MAGNITUDE]
        if plain is not None and not _is_magnitude(size, plain):
            raise UnfitLeaves(f"dora_scale {size} does not fit a weight of {plain}")
        return plain

    def rank(self, shapes: Shapes) -> int | None:
        """Return the rank of the inner algorithm."""
        return self.inner.rank(shapes)

    def delta(self, leaves: Leaves, alpha: float | None, base: Numbers | None) -> Numbers:
        """Return `m * (W + delta) / ||W + delta|| - W`, in the shape of the base weight W."""
        assert base is not None
        changed = base + self.inner.delta(leaves, alpha, base).reshape(base.shape)
        return rescale(changed, leaves[MAGNITUDE]) - base

    def linear_leaves(self, names: Collection[str]) -> tuple[str, ...]:
        """Return the linear leaves of the inner algorithm, whose delta may be written with another alpha."""
        return self.inner.linear_leaves(names)


def rescale(weight: Numbers, magnitude: Numbers) -> Numbers:
    """Return `weight` `(out, in, ...)` with its rows, or the slices of its input channels, scaled to these lengths."""
    rows = magnitude.ndim == 1 or magnitude.shape[0] == weight.shape[0]
    over = tuple(axis for axis in range(weight.ndim) if axis != (0 if rows else 1))
    lengths = np.sqrt(np.sum(weight * weight, axis=over, keepdims=True)) + weight.dtype.type(EPSILON)
    scaled: Numbers = weight * (magnitude.reshape(lengths.shape) / lengths)
    return scaled


def _is_magnitude(size: Shape, weight: Shape) -> bool:
    """Return whether there is one length per output, or per input channel, of a weight of this shape or flattened."""
    if not size or math.prod(size) == 0:
        return False
    rows = size[0] == weight[0] and math.prod(size[1:]) == 1
    columns = len(size) > 1 and math.prod(size) == size[1] and len(weight) > 1 and weight[1] % size[1] == 0
    return rows or columns
