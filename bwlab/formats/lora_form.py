"""Convert any module to a plain LoRA: exactly if it has low-rank factors, else to the nearest of a given rank."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bwlab.errors import BwlabError
from bwlab.formats.algorithms.algorithm import Shape
from bwlab.formats.keys import DOWN, UP
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.tensors import LazyTensor, in_dtype
from bwlab.linalg.factored import Array, FactoredMatrix
from bwlab.linalg.truncation import Truncation, truncate, truncate_dense

# The UNet's larger convolutions, all 3 x 3, and the layers that are 1 x 1 convolutions in all or some models
# (diffusers' UNet2DConditionModel).
_KERNEL_3 = re.compile(r"(?:.+\.)?(?:conv[12]|(?:down|up)samplers\.\d+\.conv)|conv_in|conv_out")
_ALWAYS_POINTWISE = re.compile(r".+\.conv_shortcut")
_POINTWISE_IN_SD1 = re.compile(r".+\.attentions\.\d+\.proj_(?:in|out)")


class BaseWeights(Protocol):
    """The weights of a base model."""

    def shape(self, path: str) -> Shape:
        """Return the shape of the weight at an adapter path; `BwlabError` if the model has no such layer."""

    def weight(self, path: str) -> NDArray[np.floating]:
        """Return the weight of the layer at an adapter path, read on demand."""


def weight_shape(module: ModuleWeights, architecture: str, base: BaseWeights | None = None) -> Shape:
    """Return the shape of the weight that a module changes: `(out, in)` or `(out, in, k, k)`.

    The shape comes from the base model; without a base model, from the module's own leaves, or, if these may belong to
    a flattened convolution (LoHa, LoKr), from the names of UNet layers.

    Raises:
        BwlabError: the shape cannot be determined without a base model, or the given one has no such layer.

    """
    if base is not None:
        return base.shape(module.path)
    own = module.shape
    if own is None or (len(own) == 2 and _may_be_conv(module.path) and _hides_kernel(module)):
        return _guessed(module, own, architecture)
    return own


def nearest_lora(module: ModuleWeights, rank: int, base: BaseWeights | None = None) -> Truncation:
    """Return the module's delta as a product of at most this rank, which may be inexact; see `Truncation`.

    Raises:
        BwlabError: the delta needs the base weight and no base was given, or a number is NaN or infinite.

    """
    return nearest(module.matrix(None if base is None else base.weight), rank)


def nearest(matrix: FactoredMatrix | Array, rank: int) -> Truncation:
    """Return a matrix, in factors or dense `(out, in)`, as a product of at most this rank."""
    return truncate(matrix, rank) if isinstance(matrix, FactoredMatrix) else truncate_dense(matrix, rank)


def lora_module(
    path: str,
    matrix: FactoredMatrix,
    shape: Shape,
    dtype: str,
    *,
    alpha: float | None = None,
    source: str = "",
    biases: Mapping[str, LazyTensor] | None = None,
) -> ModuleWeights:
    """Return a LoRA module with these factors.

    Args:
        path: the adapter path.
        matrix: the delta, flattened to `(out, in * k * k)`.
        shape: the shape of the weight.
        dtype: the dtype of the written factors, as safetensors names it.
        alpha: the alpha to write; None for the rank, which gives the scale 1.
        source: the file that the module comes from, for messages.
        biases: the leaves that change the bias.

    """
    rank, ones = matrix.inner_rank, (1,) * (len(shape) - 2)
    alpha = float(rank) if alpha is None else alpha
    down = in_dtype(matrix.down.reshape(rank, *shape[1:]), dtype, f"{path}.{DOWN}")
    up = in_dtype((matrix.up * (rank / alpha)).reshape(shape[0], rank, *ones), dtype, f"{path}.{UP}")
    return ModuleWeights(path, "lora", {DOWN: down, UP: up, **(biases or {})}, alpha, source)


def bias_leaves(module: ModuleWeights) -> dict[str, LazyTensor]:
    """Return the leaf that changes the layer's bias, as `diff_b`; empty if there is none."""
    bias = module.bias_leaf()
    return {} if bias is None else {"diff_b": bias}


def without_core(module: ModuleWeights) -> ModuleWeights:
    """Return a Tucker module as an exact plain LoRA of a convolution, of the same rank; return other modules unchanged.

    The core is multiplied into down, in float32.
    """
    if module.algorithm != "tucker":
        return module
    shape, matrix = module.shape, module.factors()
    assert shape is not None
    assert matrix is not None
    return lora_module(module.path, matrix, shape, "F32", source=module.source, biases=bias_leaves(module))


def _hides_kernel(module: ModuleWeights) -> bool:
    return not any(leaf in module.leaves for leaf in (DOWN, "diff"))


def _may_be_conv(path: str) -> bool:
    return any(kind.fullmatch(path) for kind in (_KERNEL_3, _ALWAYS_POINTWISE, _POINTWISE_IN_SD1))


def _guessed(module: ModuleWeights, own: Shape | None, architecture: str) -> Shape:
    if own is None:
        raise _needs_base(module, f"{module.algorithm} does not determine the shape of the weight")
    out, inner = own[0], math.prod(own[1:])
    if _KERNEL_3.fullmatch(module.path):
        if inner % 9:
            raise _needs_base(module, f"its weight is {own}, where a convolution of 3 x 3 was expected")
        return (out, inner // 9, 3, 3)
    if _ALWAYS_POINTWISE.fullmatch(module.path):
        return (out, inner, 1, 1)
    if architecture == "unknown":
        raise _needs_base(module, "this layer is linear in some models and a convolution in others")
    return (out, inner, 1, 1) if architecture == "sd1" else (out, inner)


def _needs_base(module: ModuleWeights, found: str) -> BwlabError:
    return BwlabError(
        f"the low-rank form of {module.path} in {module.source or 'an adapter'}",
        found,
        "Give the base model that it was trained on (--base)",
    )
