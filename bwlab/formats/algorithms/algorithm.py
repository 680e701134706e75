"""The base class of the algorithms that adapter files are written in.

A subclass defines which leaves its modules have, and which change of the weight they represent. `bwlab.formats.modules`
reads the leaves from a file and calls the algorithm.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bwlab.errors import BwlabError
from bwlab.formats.tensors import LazyTensor
from bwlab.linalg.factored import FactoredMatrix, Part

Numbers: TypeAlias = NDArray[np.floating]
Leaves: TypeAlias = Mapping[str, Numbers]
Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = Mapping[str, Shape]


class UnfitLeaves(ValueError):
    """Raised when the leaves of a module do not form a delta; the message names the leaves and the reason."""


class Algorithm(ABC):
    """A way to represent the change of a layer.

    Attributes:
        name: the name of the algorithm, such as `"loha"`.
        leaves: all leaves that a module may have, excluding `alpha`.
        needs_base: whether the delta depends on the base weight.
        is_linear: whether the delta is linear in the leaves that `linear_leaves` names.
        is_product: whether the delta is zero as soon as one leaf is zero.
        is_kronecker: whether the delta is a Kronecker product, whose two matrices have its singular values.
        factor_dtype: the dtype in which `factors` expects the leaves; None for the file's own dtype.

    """

    name: str
    leaves: frozenset[str]
    needs_base: ClassVar[bool] = False
    is_linear: ClassVar[bool] = True
    is_product: ClassVar[bool] = False
    is_kronecker: ClassVar[bool] = False
    factor_dtype: ClassVar[type[np.floating] | None] = np.float64

    def recognises(self, shapes: Shapes) -> bool:
        """Return whether a module with these leaf names and shapes is written with this algorithm."""
        return not self.leaves.isdisjoint(shapes)

    @abstractmethod
    def shape(self, shapes: Shapes) -> Shape | None:
        """Return the shape of the delta as far as the leaves' shapes determine it.

        Returns:
            `(out, in)` or `(out, in, k, k)`; `(out, in * k * k)` where the leaves do not determine the kernel;
            `(channels,)` for a norm; None where only the base weight determines the shape.

        Raises:
            UnfitLeaves: the shapes contradict each other.

        """

    @abstractmethod
    def delta(self, leaves: Leaves, alpha: float | None, base: Numbers | None) -> Numbers:
        """Return the change of the weight, including the scale, in the leaves' dtype.

        Args:
            leaves: the leaves by name.
            alpha: the alpha of the module; None if the file has none.
            base: the base weight; never None if `needs_base`.

        Returns:
            An array with as many numbers as the weight.

        """

    @abstractmethod
    def linear_leaves(self, names: Collection[str]) -> tuple[str, ...]:
        """Return the leaves of a module that, multiplied by a number, multiply the delta, before alpha is applied."""

    def rank(self, shapes: Shapes) -> int | None:
        """Return the rank by which alpha is divided; None if the algorithm or the module has no rank."""
        return None

    def factored_rank(self, shapes: Shapes) -> int | None:
        """Return the inner rank of `factors`; None if there are no factors smaller than the dense delta."""
        return None

    def factors(self, leaves: Leaves, alpha: float | None) -> FactoredMatrix:
        """Return the delta as an exact low-rank product; called only where `factored_rank` is a number."""
        raise NotImplementedError(f"{self.name} has no low-rank form")

    def singular_values(self, leaves: Leaves, alpha: float | None) -> Numbers:
        """Return the delta's singular values in any order; called only where `is_kronecker`."""
        raise NotImplementedError(f"{self.name} is not a Kronecker product")

    def kronecker_parts(self, leaves: Leaves) -> tuple[Part, Part]:
        """Return the two matrices of the product; called only where `is_kronecker`."""
        raise NotImplementedError(f"{self.name} is not a Kronecker product")

    def fits(self, leaves: Mapping[str, LazyTensor], weight: Shape) -> bool:
        """Return whether a module with these leaves can change a weight of this shape."""
        own = self.shape(shapes_of(leaves))
        return own is None or (math.prod(own) == math.prod(weight) and own[0] == weight[0])


class PluginAlgorithm(Algorithm):
    """The algorithm of an adapter type that no installed plugin registers: it has no shape, no rank and no delta."""

    is_linear = False

    def __init__(self, name: str) -> None:
        self.name, self.leaves = name, frozenset()

    def shape(self, shapes: Shapes) -> None:
        """Return None: the shape of the weight is unknown."""

    def delta(self, leaves: Leaves, alpha: float | None, base: Numbers | None) -> Numbers:
        """Raise `BwlabError`: without the plugin the meaning of the leaves is unknown."""
        raise unknown_type(f"a module of adapter type {self.name}", self.name)

    def linear_leaves(self, names: Collection[str]) -> tuple[str, ...]:
        """Return an empty tuple."""
        return ()


def unknown_type(asked: str, name: str) -> BwlabError:
    """Return the error for a module of an adapter type that no installed plugin registers."""
    found = f"no installed plugin registers the adapter type {name!r}"
    return BwlabError(asked, found, "Install its plugin; 'bwlab plugins' lists the plugins that are installed")


def shapes_of(leaves: Mapping[str, LazyTensor] | Leaves) -> dict[str, Shape]:
    """Return the shape of each leaf, by name."""
    return {name: leaf.shape for name, leaf in leaves.items()}


def flat(values: Numbers) -> Numbers:
    """Return a weight or factor as a matrix, with all dimensions after the first flattened."""
    return values.reshape(values.shape[0], -1)


def scale_of(alpha: float | None, rank: int | None) -> float:
    """Return `alpha / rank`; 1 if the file has no alpha or the module has no rank."""
    return 1.0 if alpha is None or rank is None else alpha / rank


def unless_larger(rank: int, shape: Shape) -> int | None:
    """Return the rank, or None if factors of this rank hold more numbers than the dense delta."""
    out, inner = shape[0], math.prod(shape[1:])
    return rank if rank * (out + inner) <= out * inner else None
