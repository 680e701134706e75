"""Frozen layers for modules that no adapter type trains: low-rank if the file's algorithm is, else a dense delta."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Self, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bwlab.adapters.layer import AdaptedLayer, AdapterLayer, BaseLayer, dense_weight, weight_shape
from bwlab.adapters.lowrank import LowRankLayer
from bwlab.errors import BwlabError
from bwlab.formats.algorithms.full import DIFF, DIFF_BIAS, NORM_BIAS, NORM_WEIGHT

if TYPE_CHECKING:
    from bwlab.formats.modules import ModuleWeights

# (input, weight, bias) -> output
Operation: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]

# Whether the layer is a norm -> the leaf.
WEIGHT_LEAVES = {False: DIFF, True: NORM_WEIGHT}
BIAS_LEAVES = {False: DIFF_BIAS, True: NORM_BIAS}


def frozen_layer(base: AdaptedLayer, module: ModuleWeights) -> AdapterLayer:
    """Return the layer for `base` that adds the changes of a module of a file.

    The layer is low-rank if the module is a product of factors of at most half the size of the delta, else dense.

    Raises:
        BwlabError: the module is for a layer of another shape, or contains NaN or infinity.

    """
    if isinstance(base, nn.Linear | nn.Conv2d) and module.bias_delta() is None and _is_small(base, module):
        return _low_rank_layer(base, module)
    return FrozenDeltaLayer.of(base, module)


def _is_small(base: nn.Linear | nn.Conv2d, module: ModuleWeights) -> bool:
    """Return whether two factors take at most half the numbers and the work of the dense delta."""
    rank = module.factored_rank()
    out, *inner = weight_shape(base)
    return rank is not None and 2 * rank * (out + math.prod(inner)) <= out * math.prod(inner)


def _low_rank_layer(base: nn.Linear | nn.Conv2d, module: ModuleWeights) -> LowRankLayer:
    factors = module.factors()
    assert factors is not None
    shape = weight_shape(base)
    out, *inner = shape
    if factors.shape != (out, math.prod(inner)):
        found = f"for a weight of {factors.shape}, here {shape}"
        raise BwlabError(module.algorithm, found, "Use the base model that it was trained on")
    up, down = (torch.from_numpy(factor).to(base.weight.device, torch.float32) for factor in (factors.up, factors.down))
    rank = factors.inner_rank
    return LowRankLayer(base, down.reshape(rank, *inner), up.reshape(out, rank, *(1 for _ in inner[1:])), float(rank))


class FrozenDeltaLayer(AdapterLayer):
    """The dense change of a Linear, a Conv2d, a GroupNorm or a LayerNorm from a file; it is not trained.

    The delta is computed once when the file is loaded, from the base weight if the algorithm needs it. For every
    algorithm, scaling an adapter scales its delta.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, base: AdaptedLayer, weight: Tensor, bias: Tensor | None = None, rank: int | None = None) -> None:
        super().__init__()
        _check_padding(base)
        self.weight_shape = weight_shape(base)
        self.rank = rank or min(self.weight_shape)
        self.alpha = float(self.rank)
        self.is_norm = not isinstance(base, nn.Linear | nn.Conv2d)
        self.register_buffer("weight", weight.reshape(self.weight_shape).contiguous())
        self.register_buffer("bias", bias)
        self._operation = _operation(base)

    @classmethod
    def of(cls, base: AdaptedLayer, module: ModuleWeights) -> FrozenDeltaLayer:
        """Return the layer for `base` that a module of a file describes, in float32.

        Raises:
            BwlabError: the module is for a weight or bias of another shape, or contains NaN or infinity.

        """
        weight = dense_weight(base).detach().to("cpu", torch.float32).numpy()
        change, bias = module.delta(weight, np.float32), module.bias_delta(np.float32)
        if bias is not None and bias.shape != weight.shape[:1]:
            raise BwlabError(
                f"the bias of {module.path}",
                f"{bias.shape}, here {weight.shape[:1]}",
                "Use the base model that it was trained on",
            )
        device = base.weight.device
        own_bias = None if bias is None else torch.from_numpy(np.array(bias, np.float32)).to(device)
        return cls(base, torch.from_numpy(np.array(change, np.float32)).to(device), own_bias, module.rank())

    @classmethod
    def create(
        cls, layer: BaseLayer, rank: int, alpha: float, generator: torch.Generator | None, **options: object
    ) -> Self:
        """Raise `BwlabError`: such a layer comes from a file."""
        raise BwlabError("a new layer of a file's adapter", "it is only read from files", "Choose an adapter type")

    @classmethod
    def from_tensors(cls, layer: AdaptedLayer, tensors: Mapping[str, Tensor]) -> FrozenDeltaLayer:
        """Return the layer from `diff` and `diff_b`, or for a norm from `w_norm` and `b_norm`."""
        norm = not isinstance(layer, nn.Linear | nn.Conv2d)
        if WEIGHT_LEAVES[norm] not in tensors:
            raise BwlabError(
                "a layer of a file's adapter", ", ".join(sorted(tensors)), f"It needs {WEIGHT_LEAVES[norm]}"
            )
        return cls(layer, tensors[WEIGHT_LEAVES[norm]].detach().clone(), tensors.get(BIAS_LEAVES[norm]))

    def tensors(self) -> dict[str, Tensor]:
        """Return `diff` and `diff_b`, or for a norm `w_norm` and `b_norm`; a difference has no scale, so no alpha."""
        tensors = {WEIGHT_LEAVES[self.is_norm]: self.weight}
        return tensors if self.bias is None else tensors | {BIAS_LEAVES[self.is_norm]: self.bias}

    def forward(self, x: Tensor, base_output: Tensor) -> Tensor:
        """Return the layer's operation with the delta as its weight."""
        return self._operation(x, self.weight, self.bias)

    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        """Return the change of the weight, of shape `weight_shape`; the change of the bias is in `bias`."""
        return self.weight

    def compute_dtype(self) -> torch.dtype:
        """Return the dtype of the delta."""
        return self.weight.dtype


def _operation(base: AdaptedLayer) -> Operation:
    """Return a description of the layer without its numbers."""
    if isinstance(base, nn.Linear):
        return F.linear
    if isinstance(base, nn.Conv2d):
        stride, padding, dilation, groups = base.stride, base.padding, base.dilation, base.groups
        return lambda x, weight, bias: F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    eps = base.eps
    if isinstance(base, nn.GroupNorm):
        num_groups = base.num_groups
        return lambda x, weight, bias: F.group_norm(x, num_groups, weight, bias, eps)
    shape = list(base.normalized_shape)
    return lambda x, weight, bias: F.layer_norm(x, shape, weight, bias, eps)


def _check_padding(base: AdaptedLayer) -> None:
    if isinstance(base, nn.Conv2d) and base.padding_mode != "zeros":
        found = f"it has padding_mode={base.padding_mode!r}"
        raise BwlabError("an adapter on a convolution", found, "Only convolutions that pad with zeros can be adapted")
