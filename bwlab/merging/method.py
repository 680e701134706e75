"""How deltas of several adapters become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bwlab.errors import BwlabError
from bwlab.formats.module_weights import ModuleWeights
from bwlab.lowrank import Array
from bwlab.merging.dense import DARE_DENSITY, TIES_DENSITY, dare, module_generator, ties

SUM, TIES, DARE, BLOCKS = "sum", "ties", "dare", "blocks"
METHODS = (SUM, TIES, DARE, BLOCKS)


@dataclass(frozen=True)
class Method:
    """A way to merge.

    Attributes:
        name: `"sum"`, `"ties"` or `"dare"`; `"blocks"` is a sum with scales of 0 and 1.
        density: of TIES and DARE, above 0 to 1; None: the usual one.
        seed: of DARE.
    """

    name: str = SUM
    density: float | None = None
    seed: int = 0

    @property
    def linear(self) -> bool:
        """Whether it adds deltas, so that factors can be put side by side."""
        return self.name in (SUM, BLOCKS)

    def check(self) -> None:
        """Raises `BwlabError` for a name or density that makes no sense."""
        if self.name not in METHODS:
            raise BwlabError(f"--method {self.name}", "no such method", f"Known: {', '.join(METHODS)}")
        if self.density is not None and self.linear:
            raise BwlabError(f"--density with --method {self.name}", "a sum keeps everything", "Use ties or dare")
        if self.density is not None and not 0 < self.density <= 1:
            raise BwlabError(f"--density {self.density:g}", "out of range", "Give a number above 0 up to 1")


@dataclass(frozen=True)
class Part:
    """One adapter's module in a merge.

    Attributes:
        place: of the adapter, from 0.
        module: what it does there.
        scale: that its delta is multiplied by, not 0.
    """

    place: int
    module: ModuleWeights
    scale: float


def dense_delta(parts: Sequence[Part], method: Method, weight: NDArray[np.floating] | None = None) -> Array:
    """The merged delta of one weight in float64, of the weight's shape, else flattened `(out, in * k * k)`.

    Raises:
        BwlabError: a delta needs the weight and there is none, or holds NaN or infinity.
    """
    base = None if weight is None else weight.astype(np.float64)
    deltas = [_delta(part, base) for part in parts]
    return merged(deltas, [part.place for part in parts], parts[0].module.path, method)


def merged(deltas: Sequence[Array], places: Sequence[int], path: str, method: Method) -> Array:
    """The merge of dense deltas of one shape, scaled already."""
    if method.name == TIES:
        return ties(deltas, method.density or TIES_DENSITY)
    if method.name == DARE:
        density = method.density or DARE_DENSITY
        deltas = [
            dare(delta, density, module_generator(method.seed, place, path))
            for delta, place in zip(deltas, places, strict=True)
        ]
    return _sum(deltas)


def bias_delta(parts: Sequence[Part]) -> Array | None:
    """The sum of the changes of a bias, whatever the method; None if no part changes it."""
    changes = [part.module.bias_delta() for part in parts]
    found: list[Array] = [
        np.asarray(change * part.scale, np.float64)
        for part, change in zip(parts, changes, strict=True)
        if change is not None
    ]
    return _sum(found) if found else None


def _sum(arrays: Sequence[Array]) -> Array:
    return np.asarray(np.sum(arrays, axis=0), np.float64)


def _delta(part: Part, base: Array | None) -> Array:
    delta = np.asarray(part.module.delta(base), np.float64) * part.scale
    if base is not None or delta.ndim == 1:
        return delta
    return delta.reshape(len(delta), -1)
