"""DoRA: another algorithm's change, after which each row (or column) of the weight gets a length of its own.

Source: DoRA, Liu et al. (arXiv 2402.09353), equation 5: `W' = m * (W + delta) / ||W + delta||`. LyCORIS applies it to
LoHa and LoKr too, keeps one m per output `(out, 1, ...)` or, with `wd_on_output=False`, per input channel
`(1, in, ...)`, and adds the float32 epsilon to the length.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from bwlab.formats.algorithms.algorithm import Algorithm, Leaves, Numbers, Shape, Shapes, UnfitLeaves

MAGNITUDE = "dora_scale"
EPSILON = float(np.finfo(np.float32).eps)


def with_magnitude(inner: Algorithm, name: str) -> Algorithm:
    """Return the algorithm whose change is that of `inner`, followed by the rescaling with `dora_scale`."""

    def delta(leaves: Leaves, alpha: float | None, base: Numbers | None) -> Numbers:
        assert base is not None
        changed = base + inner.delta(leaves, alpha, base).reshape(base.shape)
        return rescale(changed, leaves[MAGNITUDE]) - base

    def shape(shapes: Shapes) -> Shape | None:
        plain = inner.shape(shapes)
        size = shapes[MAGNITUDE]
        if plain is not None and not _is_magnitude(size, plain):
            raise UnfitLeaves(f"dora_scale {size} does not fit a weight of {plain}")
        return plain

    return dataclasses.replace(
        inner,
        name=name,
        recognises=lambda leaves: MAGNITUDE in leaves and inner.recognises(leaves),
        leaves=inner.leaves | {MAGNITUDE},
        shape=shape,
        delta=delta,
        needs_base=True,
        factors=None,
    )


def _is_magnitude(size: Shape, weight: Shape) -> bool:
    """Whether there is a length for each output, or for each input channel, of a weight of this shape or flattened."""
    if not size or math.prod(size) == 0:
        return False
    rows = size[0] == weight[0] and math.prod(size[1:]) == 1
    columns = len(size) > 1 and math.prod(size) == size[1] and len(weight) > 1 and weight[1] % size[1] == 0
    return rows or columns


def rescale(weight: Numbers, magnitude: Numbers) -> Numbers:
    """`weight` `(out, in, ...)` with its rows, or the slices of its input channels, brought to these lengths."""
    rows = magnitude.ndim == 1 or magnitude.shape[0] == weight.shape[0]
    over = tuple(axis for axis in range(weight.ndim) if axis != (0 if rows else 1))
    lengths = np.sqrt(np.sum(weight * weight, axis=over, keepdims=True)) + weight.dtype.type(EPSILON)
    scaled: Numbers = weight * (magnitude.reshape(lengths.shape) / lengths)
    return scaled
