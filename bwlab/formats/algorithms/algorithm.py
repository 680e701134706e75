"""What an algorithm of adapter files is: its leaves, and the delta of a weight that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bwlab.linalg.factored import Part

Numbers: TypeAlias = NDArray[np.floating]
Leaves: TypeAlias = Mapping[str, Numbers]
Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = Mapping[str, Shape]


class UnfitLeaves(ValueError):
    """The leaves of a module do not make one delta; the message says which and how."""


@dataclass(frozen=True)
class Algorithm:
    """One way to write a change of a layer.

    Attributes:
        name: e.g. `"loha"`.
        recognises: whether a module with these leaves is written this way.
        leaves: every leaf it may have, `alpha` aside.
        shape: of the delta as far as the leaves' shapes tell: `(out, in)` or `(out, in, k, k)`; `(out, in * k * k)`
            where they do not tell the kernel; `(channels,)` of a norm; None where only the base weight has it. Raises
            `UnfitLeaves` where the shapes contradict each other.
        rank: from the leaves' shapes; None where the algorithm or the module has none.
        delta: leaves, alpha (None: absent in the file) and base weight (None: not known) -> the change of the weight,
            of the leaves' dtype, in a shape of as many numbers as the weight's. The base weight is there if
            `needs_base`.
        needs_base: whether the delta depends on the weight that it changes.
        values: the delta's singular values, where they are had without its vectors.
        svd: the delta's singular vectors and values `(out, r)`, `(r,)`, `(in, r)`, largest first, where they are had
            without multiplying `factors` out.
        factors: the delta as `(out, r)`, `(r, in)`, exactly, but for a scale that comes with them; None where there is
            no such form.
        parts: of a Kronecker product, its two matrices; None of other algorithms.
        factors_are_leaves: whether these two are leaves as they are, of whatever floats: nothing is computed.

    """

    name: str
    recognises: Callable[[frozenset[str]], bool]
    leaves: frozenset[str]
    shape: Callable[[Shapes], Shape | None]
    rank: Callable[[Shapes], int | None]
    delta: Callable[[Leaves, float | None, Numbers | None], Numbers]
    needs_base: bool = False
    factors: Callable[[Leaves, float | None], tuple[Numbers, Numbers, float]] | None = None
    factors_are_leaves: bool = False
    values: Callable[[Leaves, float | None], Numbers] | None = None
    svd: Callable[[Leaves, float | None], tuple[Numbers, Numbers, Numbers]] | None = None
    parts: Callable[[Leaves], tuple[Part, Part]] | None = None


def flat(values: Numbers) -> Numbers:
    """Return a weight or factor as a matrix: all dimensions but the first as one."""
    return values.reshape(values.shape[0], -1)


def scale_of(alpha: float | None, rank: int | None) -> float:
    """`alpha / rank`; 1 where the file has no alpha, or the module no rank."""
    return 1.0 if alpha is None or rank is None else alpha / rank
