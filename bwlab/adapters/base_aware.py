"""Adapters whose delta depends on the weight that they change, such as `W -> R W`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bwlab.adapters.layer import AdaptedLayer, AdapterLayer, BaseLayer
from bwlab.errors import BwlabError


class BaseAwareLayer(AdapterLayer):
    """An adapter layer that is given the base layer whenever it acts, and the base weight whenever it tells its delta.

    It never keeps either: one adapter may act on two models at once, and moving it moves no base weight. A type only
    has to say its `delta`; it overrides `forward` where there is a cheaper way than through the dense weight.
    """

    needs_base_weight: ClassVar[bool] = True

    def on(self, base: AdaptedLayer) -> OnBase:
        """This layer together with the base layer that it acts on, for as long as it is attached."""
        assert isinstance(base, nn.Linear | nn.Conv2d)
        return OnBase(self, base)

    def forward(self, x: Tensor, base_output: Tensor, base: BaseLayer) -> Tensor:  # type: ignore[override]
        """What is added to `base_output`, at scale 1: by default the base layer's operation with `delta` as its weight.

        Args:
            x: as in `AdapterLayer.forward`.
            base_output: as in `AdapterLayer.forward`; the bias is in it, and is no part of what the delta changes.
            base: the frozen layer, for its weight, bias and geometry; not to be changed or kept.
        """
        delta = self.delta(base.weight.to(self.compute_dtype()))
        if isinstance(base, nn.Linear):
            return F.linear(x, delta)
        return F.conv2d(x, delta, None, base.stride, base.padding, base.dilation, base.groups)

    @abstractmethod
    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        """The change of `base_weight`, of its shape; `given(base_weight)` raises the error where there is none."""

    def given(self, base_weight: Tensor | None) -> Tensor:
        """The base weight; raises `BwlabError` if there is none or it has another shape."""
        kind = type(self).__name__
        if base_weight is None:
            raise BwlabError(
                f"the delta of a {kind} on a weight of shape {self.weight_shape}",
                "it depends on the weight that it changes, and no base weight was given",
                "Give the base model that the adapter was trained on, as in adapter.deltas(unet)",
            )
        if tuple(base_weight.shape) != self.weight_shape:
            raise BwlabError(
                f"the delta of a {kind} on a weight of shape {self.weight_shape}",
                f"the base weight given has shape {tuple(base_weight.shape)}",
                "Give the base model that the adapter was trained on",
            )
        return base_weight

    def base_part(self, base_output: Tensor, base: BaseLayer) -> Tensor:
        """`base_output` without the bias: what the weight alone gave, which types such as OFT go on from."""
        if base.bias is None:
            return base_output
        ones = () if isinstance(base, nn.Linear) else (1, 1)
        return base_output - base.bias.to(base_output.dtype).view(-1, *ones)


@dataclass(frozen=True, eq=False)
class OnBase:
    """A base-aware layer with its base layer: it is called, and added, as any adapter layer is."""

    layer: BaseAwareLayer
    base: BaseLayer

    def __call__(self, x: Tensor, base_output: Tensor) -> Tensor:
        """What is added to `base_output`, at scale 1."""
        part: Tensor = self.layer(x, base_output, self.base)
        return part

    def add_to(self, total: Tensor, x: Tensor, base_output: Tensor, scale: float) -> Tensor:
        """`total` with `scale` times that added, in `total`'s dtype."""
        part = self(x, base_output).to(total.dtype)
        return total + (part if scale == 1 else part * scale)

    def compute_dtype(self) -> torch.dtype:
        """The dtype of the adapter's own numbers."""
        return self.layer.compute_dtype()
