"""Merge methods, which combine the deltas of several adapters into one delta."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bwlab.errors import BwlabError
from bwlab.formats.algorithms import ALGORITHMS
from bwlab.formats.lora_form import BaseWeights, lora_module, nearest, weight_shape
from bwlab.formats.modules import ModuleWeights, scaled_module
from bwlab.formats.tensors import LazyTensor, in_dtype
from bwlab.linalg.factored import Array, FactoredMatrix
from bwlab.linalg.sparse_merges import DARE_DENSITY, TIES_DENSITY, dare, module_generator, ties
from bwlab.linalg.truncation import Truncation, concatenated
from bwlab.merging.convert import resized_module
from bwlab.merging.output import Fit

SUM, TIES, DARE, BLOCKS = "sum", "ties", "dare", "blocks"
METHODS = (SUM, TIES, DARE, BLOCKS)
ZIPLORA = "ziplora"
"""The method of `bwlab.merging.ziplora`, which needs a base and images."""

DENSITIES = {TIES: TIES_DENSITY, DARE: DARE_DENSITY}

MergedModule = tuple[ModuleWeights | None, Fit | None]
# Algorithm whose delta is one leaf -> that leaf: sums of such leaves are exact.
DIRECT = {"norm": "w_norm", "full": "diff"}


@dataclass(frozen=True)
class Method:
    """A way to merge.

    Attributes:
        name: `"sum"`, `"ties"` or `"dare"`; `"blocks"` is a sum with scales of 0 and 1.
        density: density of TIES and DARE, above 0 up to 1; None: the default of the method.
        seed: seed of DARE.

    """

    name: str = SUM
    density: float | None = None
    seed: int = 0

    @property
    def linear(self) -> bool:
        """Whether the method adds deltas, so that factors can be put side by side."""
        return self.name in (SUM, BLOCKS)

    @property
    def kept(self) -> float:
        """Share of the numbers that TIES or DARE keeps: the density, or the default of the method."""
        return self.density or DENSITIES[self.name]

    def options(self) -> dict[str, object]:
        """Return what decides the numbers beside the name: the density of TIES and DARE, and the seed of DARE."""
        if self.linear:
            return {}
        seed = {"seed": self.seed} if self.name == DARE else {}
        return {"density": self.kept, **seed}

    def check(self) -> None:
        """Raise `BwlabError` for an unknown method, or a density that the method does not take."""
        if self.name not in METHODS:
            raise BwlabError(f"--method {self.name}", "no such method", f"Known: {', '.join((*METHODS, ZIPLORA))}")
        if self.density is not None and self.linear:
            raise BwlabError(f"--density with --method {self.name}", "a sum keeps all numbers", "Use ties or dare")
        if self.density is not None and not 0 < self.density <= 1:
            raise BwlabError(f"--density {self.density:g}", "out of range", "Give a number above 0 up to 1")


@dataclass(frozen=True)
class ScaledModule:
    """A module of one adapter in a merge, with its scale.

    Attributes:
        index: index of the adapter, from 0.
        module: the module.
        scale: factor of the delta, not 0.

    """

    index: int
    module: ModuleWeights
    scale: float


def dense_delta(parts: Sequence[ScaledModule], method: Method, weight: NDArray[np.floating] | None = None) -> Array:
    """Return the merged delta of one weight in float64, in the weight's shape or flattened to `(out, in * k * k)`.

    Raises:
        BwlabError: a delta needs the weight of the base, which is missing, or contains NaN or infinity.

    """
    base = None if weight is None else weight.astype(np.float64)
    deltas = [_delta(part, base) for part in parts]
    return merged(deltas, [part.index for part in parts], parts[0].module.path, method)


def merged(deltas: Sequence[Array], indices: Sequence[int], path: str, method: Method) -> Array:
    """Return the merge of dense deltas of one shape, which are already scaled."""
    if method.name == TIES:
        return ties(deltas, method.kept)
    if method.name == DARE:
        deltas = [
            dare(delta, method.kept, module_generator(method.seed, index, path))
            for delta, index in zip(deltas, indices, strict=True)
        ]
    return _sum(deltas)


def bias_delta(parts: Sequence[ScaledModule]) -> Array | None:
    """Return the sum of the changes of a bias, whatever the method; None if no part changes it."""
    changes = [part.module.bias_delta() for part in parts]
    scaled_changes: list[Array] = [
        np.asarray(change * part.scale, np.float64)
        for part, change in zip(parts, changes, strict=True)
        if change is not None
    ]
    return _sum(scaled_changes) if scaled_changes else None


def _sum(arrays: Sequence[Array]) -> Array:
    return np.asarray(np.sum(arrays, axis=0), np.float64)


def _delta(part: ScaledModule, base: Array | None) -> Array:
    delta = np.asarray(part.module.delta(base), np.float64) * part.scale
    if base is not None or delta.ndim == 1:
        return delta
    return delta.reshape(len(delta), -1)


def combined(
    parts: Sequence[ScaledModule], method: Method, rank: int | None, architecture: str, base: BaseWeights | None = None
) -> MergedModule:
    """Return the merged module, or None if its delta is zero, and its approximation, or None if it is exact.

    Args:
        parts: at least one part, all of the same path.
        method: the merge method.
        rank: highest rank of the result; None: the rank of the exact result.
        architecture: architecture that determines shapes which the leaves do not determine.
        base: weights of the base model.

    Raises:
        BwlabError: the modules have different shapes, the result needs an approximation and no rank is given, or a
            delta needs the base.

    """
    if _all_of(parts, "norm"):
        return _direct(parts), None
    if len(parts) == 1 and method.linear and rank is None and parts[0].module.algorithm in ALGORITHMS:
        return scaled_module(parts[0].module, parts[0].scale), None
    shape = _common_shape(parts, architecture, base)
    if len(parts) == 1 and method.linear and rank is not None:
        return _single(parts[0], rank, shape, base)
    if rank is None and method.linear and _all_of(parts, "full"):
        return _direct(parts), None
    near, before = _near(parts, method, rank, base)
    path, source = parts[0].module.path, parts[0].module.source
    biases = _bias_leaf(parts)
    fit = None if rank is None else Fit(path, before, near.matrix.inner_rank, near.energy, near.lost)
    matrix = near.matrix
    if near.energy == 0:
        if not biases:
            return None, fit
        matrix = FactoredMatrix(np.zeros((matrix.shape[0], 1)), np.zeros((1, matrix.shape[1])))
    alpha = None if rank is None else float(rank)
    return lora_module(path, matrix, shape, "F32", alpha=alpha, source=source, biases=biases), fit


def _near(
    parts: Sequence[ScaledModule], method: Method, rank: int | None, base: BaseWeights | None
) -> tuple[Truncation, int | None]:
    """Return the merged delta as factors, and the sum of the ranks of its parts; None for a dense delta."""
    own = [_factors(part.module, base) for part in parts] if method.linear else []
    factors = [matrix.scaled(part.scale) for matrix, part in zip(own, parts, strict=False) if matrix is not None]
    if len(factors) == len(parts):
        whole = concatenated(factors)
        if rank is not None:
            return nearest(whole, rank), whole.inner_rank
        return Truncation(whole, whole.norm() ** 2, 0.0), whole.inner_rank
    if rank is None:
        raise _needs_rank(parts, method)
    path = parts[0].module.path
    weight = base.weight(path) if base is not None else None
    dense = dense_delta(parts, method, weight)
    return nearest(dense.reshape(len(dense), -1), rank), None


def _factors(module: ModuleWeights, base: BaseWeights | None) -> FactoredMatrix | None:
    """Return the factors of a delta, of a plugin's adapter type in a base too; None for a dense delta."""
    if module.algorithm in ALGORITHMS or base is None:
        return module.factors()
    matrix = module.matrix(base.weight)
    return matrix if isinstance(matrix, FactoredMatrix) else None


def _single(part: ScaledModule, rank: int, shape: tuple[int, ...], base: BaseWeights | None) -> MergedModule:
    """Return the module of one adapter, unchanged if its rank is low enough."""
    new, fit = resized_module(part.module, rank, shape, "F32", base)
    fit = Fit(fit.path, fit.before, fit.after, fit.energy * part.scale**2, fit.lost * part.scale**2)
    return (None if new is None else scaled_module(new, part.scale)), fit


def _direct(parts: Sequence[ScaledModule]) -> ModuleWeights:
    """Return the sum of modules whose leaves are deltas themselves."""
    first = parts[0].module
    leaf = DIRECT[first.algorithm]
    if len({part.module.leaves[leaf].shape for part in parts}) > 1:
        raise _different_shapes(parts, [part.module.leaves[leaf].shape for part in parts])
    weight = np.sum([part.module.leaves[leaf].numbers() * part.scale for part in parts], axis=0)
    bias = bias_delta(parts)
    leaves = {leaf: in_dtype(weight, "F32", f"{first.path}.{leaf}")}
    if bias is not None:
        leaves["b_norm" if leaf == "w_norm" else "diff_b"] = in_dtype(bias, "F32", f"{first.path}.bias")
    return ModuleWeights(first.path, first.algorithm, leaves, None, first.source)


def _bias_leaf(parts: Sequence[ScaledModule]) -> dict[str, LazyTensor]:
    bias = bias_delta(parts)
    return {} if bias is None else {"diff_b": in_dtype(bias, "F32", f"{parts[0].module.path}.diff_b")}


def _all_of(parts: Sequence[ScaledModule], algorithm: str) -> bool:
    return all(part.module.algorithm == algorithm for part in parts)


def _common_shape(parts: Sequence[ScaledModule], architecture: str, base: BaseWeights | None) -> tuple[int, ...]:
    shapes = [_shape(part.module, architecture, base) for part in parts]
    known = {shape for shape in shapes if shape is not None}
    if len({_flat(shape) for shape in known}) > 1:
        raise _different_shapes(parts, shapes)
    if not known:
        return ()
    return max(known, key=len)  # A LoRA of a 1 x 1 convolution may be written as a LoRA of a linear layer.


def _shape(module: ModuleWeights, architecture: str, base: BaseWeights | None) -> tuple[int, ...] | None:
    if base is None and module.shape is None:
        return None  # Without a base such a module can only be copied.
    return weight_shape(module, architecture, base)


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], int(np.prod(shape[1:]))


def _different_shapes(parts: Sequence[ScaledModule], shapes: Sequence[object]) -> BwlabError:
    names = " and ".join(f"{shape} in {part.module.source}" for shape, part in zip(shapes, parts, strict=True))
    return BwlabError(
        "merging adapters",
        f"{parts[0].module.path} is {names}",
        "Merge adapters that were made for the same base model",
    )


def _needs_rank(parts: Sequence[ScaledModule], method: Method) -> BwlabError:
    algorithms = ", ".join(sorted({part.module.algorithm for part in parts}))
    why = "is dense" if method.linear else f"by {method.name} is dense"
    return BwlabError(
        f"merging {parts[0].module.path}", f"the result ({algorithms}) {why}", "Give the rank of the result (--rank N)"
    )
