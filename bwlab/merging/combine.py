"""One module of a merged adapter from the same module of several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bwlab.errors import BwlabError
from bwlab.formats.convert import resized_module
from bwlab.formats.encoding import in_dtype
from bwlab.formats.fits import Fit
from bwlab.formats.lora_form import Weights, lora_module, weight_shape
from bwlab.formats.module_weights import ModuleWeights
from bwlab.formats.scaling import scaled
from bwlab.formats.tensors import LazyTensor
from bwlab.lowrank import FactoredMatrix
from bwlab.merging.method import Method, Part, bias_delta, dense_delta
from bwlab.truncation import Truncation, concatenated, truncate, truncate_dense

Made = tuple[ModuleWeights | None, Fit | None]
# Of each algorithm whose delta is a leaf as it stands, that leaf: sums of such leaves are exact.
DIRECT = {"norm": "w_norm", "full": "diff"}


def combined(
    parts: Sequence[Part], method: Method, rank: int | None, architecture: str, base: Weights | None = None
) -> Made:
    """The merged module, None if its delta is zero, and what low rank cost, None where it is exact.

    Args:
        parts: at least one, all of one path.
        method: how to merge.
        rank: highest rank of the result; None: whatever is exact.
        architecture: tells shapes that leaves do not.
        base: weights of the base model.

    Raises:
        BwlabError: the modules are of different shapes, only an approximation could hold the result and no rank is
            given, or a delta needs a base.
    """
    if _all_of(parts, "norm"):
        return _direct(parts), None
    if len(parts) == 1 and method.linear and rank is None:
        return scaled(parts[0].module, parts[0].scale), None
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
    parts: Sequence[Part], method: Method, rank: int | None, base: Weights | None
) -> tuple[Truncation, int | None]:
    """The merged delta as factors, and the rank that those of its parts have together; None if it was dense."""
    found = [part.module.factors() for part in parts] if method.linear else []
    factors = [one.scaled(part.scale) for one, part in zip(found, parts, strict=False) if one is not None]
    if len(factors) == len(parts):
        whole = concatenated(factors)
        if rank is not None:
            return truncate(whole, rank), whole.inner_rank
        return Truncation(whole, whole.norm() ** 2, 0.0), whole.inner_rank
    if rank is None:
        raise _needs_rank(parts, method)
    path = parts[0].module.path
    weight = base.weight(path) if base is not None else None
    dense = dense_delta(parts, method, weight)
    return truncate_dense(dense.reshape(len(dense), -1), rank), None


def _single(part: Part, rank: int, shape: tuple[int, ...], base: Weights | None) -> Made:
    """One adapter's module, kept as it is written where it has no higher rank."""
    new, fit = resized_module(part.module, rank, shape, "F32", base)
    fit = Fit(fit.path, fit.before, fit.after, fit.energy * part.scale**2, fit.lost * part.scale**2)
    return (None if new is None else scaled(new, part.scale)), fit


def _direct(parts: Sequence[Part]) -> ModuleWeights:
    """The sum of modules whose leaves are deltas as they stand."""
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


def _bias_leaf(parts: Sequence[Part]) -> dict[str, LazyTensor]:
    bias = bias_delta(parts)
    return {} if bias is None else {"diff_b": in_dtype(bias, "F32", f"{parts[0].module.path}.diff_b")}


def _all_of(parts: Sequence[Part], algorithm: str) -> bool:
    return all(part.module.algorithm == algorithm for part in parts)


def _common_shape(parts: Sequence[Part], architecture: str, base: Weights | None) -> tuple[int, ...]:
    shapes = [_shape(part.module, architecture, base) for part in parts]
    known = {shape for shape in shapes if shape is not None}
    if len({_flat(shape) for shape in known}) > 1:
        raise _different_shapes(parts, shapes)
    if not known:
        return ()
    return max(known, key=len)  # A LoRA of a 1 x 1 convolution may be written as that of a linear layer.


def _shape(module: ModuleWeights, architecture: str, base: Weights | None) -> tuple[int, ...] | None:
    if base is None and module.shape is None:
        return None  # Nothing is made of it without a base but a copy.
    return weight_shape(module, architecture, base)


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], int(np.prod(shape[1:]))


def _different_shapes(parts: Sequence[Part], shapes: Sequence[object]) -> BwlabError:
    names = " and ".join(f"{shape} in {part.module.source}" for shape, part in zip(shapes, parts, strict=True))
    return BwlabError(
        "merging adapters", f"{parts[0].module.path} is {names}", "Merge adapters that were made for one base model"
    )


def _needs_rank(parts: Sequence[Part], method: Method) -> BwlabError:
    algorithms = ", ".join(sorted({part.module.algorithm for part in parts}))
    why = "is dense" if method.linear else f"by {method.name} is dense"
    return BwlabError(
        f"merging {parts[0].module.path}", f"the result ({algorithms}) {why}", "Give the rank to keep of it (--rank N)"
    )
