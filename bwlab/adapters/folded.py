"""Weights with the deltas of adapters added, in place of a layer's own weight as long as the adapters act."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bwlab.adapters.frozen import FrozenDeltaLayer

if TYPE_CHECKING:
    from bwlab.adapters.layer import AdaptedLayer, AdapterLayer


def can_fold(layer: AdapterLayer, scale: float | Tensor, base: AdaptedLayer) -> bool:
    """Return whether an adapter layer acts through the weight alone, with one scale, on a float32 weight.

    In half precision a small delta would be rounded away beside the weight.
    """
    whole = not (isinstance(layer, FrozenDeltaLayer) and layer.bias is not None)
    plain = isinstance(base, nn.Linear | nn.Conv2d) and base.weight.dtype == torch.float32
    return whole and plain and not isinstance(scale, Tensor)


class FoldedWeight:
    """A new weight of a base layer, from construction until `remove`; the layer's own weight keeps its bits.

    Args:
        base: the layer.
        layers: adapter layers with their scales, for which `can_fold` holds; their deltas add up.

    """

    def __init__(self, base: AdaptedLayer, layers: Sequence[tuple[AdapterLayer, float | Tensor]]) -> None:
        self._base, self._own = base, base.weight
        with torch.no_grad():
            total = self._own.detach().clone()
            for layer, scale in layers:
                given = self._own.detach().to(layer.weight_dtype()) if layer.needs_base_weight else None
                total += layer.delta(given).to(total) * scale
        base.weight = nn.Parameter(total, requires_grad=False)

    def remove(self) -> None:
        """Give the layer its own weight back."""
        self._base.weight = self._own
