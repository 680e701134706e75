"""The interface of adapter types: one adapter on one frozen layer, with or without access to the base layer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from bwlab.linalg.factored import FactoredMatrix


BaseLayer: TypeAlias = nn.Linear | nn.Conv2d
# Norms are adapted by files alone: no adapter type makes a new layer on one.
AdaptedLayer: TypeAlias = BaseLayer | nn.GroupNorm | nn.LayerNorm

LORA_NETWORK = "networks.lora"
"""The network module that trains LoRA, in sd-scripts and in its successors for transformers."""


class AdapterLayer(nn.Module, ABC):
    """One adapter on one frozen `nn.Linear` or `nn.Conv2d`.

    The base layer is never owned, changed or registered: an adapter layer keeps only what it needs of its geometry.
    Every trainable number is an `nn.Parameter`, so an optimiser needs only `parameters()`.

    Attributes:
        rank: the adapter's rank, >= 1.
        alpha: the numerator of the scale; low-rank types multiply their delta by `alpha / rank`.
        weight_shape: shape of the base layer's weight, checked before an adapter is attached.
        needs_base_weight: whether `delta` needs the base weight; such types derive from
            `bwlab.adapters.layer.BaseAwareLayer`.

    """

    rank: int
    alpha: float
    weight_shape: tuple[int, ...]
    needs_base_weight: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def create(
        cls, layer: BaseLayer, rank: int, alpha: float, generator: torch.Generator | None, **options: object
    ) -> Self:
        """Return a new adapter for `layer` that changes nothing yet; raise `BwlabError` for an unknown option."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, layer: BaseLayer, tensors: Mapping[str, Tensor]) -> AdapterLayer:
        """Return the adapter for `layer` from `tensors` (leaf name -> tensor, as in a file), bit for bit.

        The layer may be of a simpler class if the tensors are only those of that class.
        """

    def started_at(self, layer: BaseLayer, tensors: Mapping[str, Tensor]) -> AdapterLayer:
        """Return an adapter for `layer` that continues training from `tensors`, with the options of this adapter.

        This default is right for types without options whose `from_tensors` returns a trainable layer.
        """
        return type(self).from_tensors(layer, tensors)

    def on(self, base: AdaptedLayer) -> AdapterLayer | BoundLayer:
        """Return what acts on `base` while attached: this layer itself, unless its type needs the base weight."""
        return self

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return leaf name -> tensor, `alpha` (a float32 scalar) included; the inverse of `from_tensors`."""

    def file_tensors(self, alpha: float) -> dict[str, Tensor]:
        """Return `tensors()` rewritten for another alpha, as on save, if the type can do so (`LowRankLayer` can).

        A file has one alpha for all its modules, because diffusers 0.42 mis-scales files with several alphas. Types
        whose alpha is not a plain factor keep their alpha, as this default does.
        """
        return self.tensors()

    @classmethod
    def network(cls) -> tuple[str, Mapping[str, str]]:
        """Return kohya's name of the network module that reads files of this type, and its arguments, for metadata.

        `LORA_NETWORK` stands for the module of its kind of model, such as `networks.lora_flux`.
        """
        return LORA_NETWORK, {}

    @abstractmethod
    def forward(self, x: Tensor, base_output: Tensor) -> Tensor:
        """Return the tensor that is added to `base_output` at scale 1.

        Args:
            x: the base layer's input, `(batch, ..., in)` or `(batch, in, h, w)`.
            base_output: the output of the frozen layer, `(batch, ..., out)` or `(batch, out, h', w')`.

        Returns:
            A tensor of `base_output`'s shape.

        """

    def add_to(self, total: Tensor, x: Tensor, base_output: Tensor, scale: float) -> Tensor:
        """Return `total` plus `scale` times the result of `forward`, in the dtype of `total`.

        This default is right for every type. Override it only for speed, and do not change `total` in place.

        Args:
            total: the base output, plus the parts that earlier adapters added.
            x: as for `forward`.
            base_output: as for `forward`.
            scale: the factor of the adapter.

        """
        part: Tensor = self(x, base_output).to(total.dtype)
        return total + (part if scale == 1 else part * scale)

    @abstractmethod
    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        """Return the change of the layer's effective weight, of shape `weight_shape`, scale folded in.

        Raises:
            BwlabError: the type needs the base weight and none was given.

        """

    def factors(self) -> FactoredMatrix | None:
        """Return the delta as a low-rank product with the scale folded in, or None if the type has no such form."""
        return None

    def compute_dtype(self) -> torch.dtype:
        """Return the dtype of the adapter's own numbers, in which it computes outside autocast."""
        return next(self.parameters()).dtype

    def weight_dtype(self) -> torch.dtype:
        """Return the dtype in which `delta` takes the base weight; wider where the delta is a small difference."""
        return self.compute_dtype()


def kind_of(layer: BaseLayer) -> str:
    """Return `"linear"`, `"conv1x1"` or `"conv"` (any larger kernel)."""
    if isinstance(layer, nn.Linear):
        return "linear"
    return "conv1x1" if layer.kernel_size == (1, 1) else "conv"


def weight_shape(layer: AdaptedLayer) -> tuple[int, ...]:
    """Return the shape of a layer's weight, also where it is held as bytes of two 4-bit numbers each."""
    return (layer.out_features, layer.in_features) if isinstance(layer, nn.Linear) else tuple(layer.weight.shape)


def dense_weight(layer: AdaptedLayer) -> Tensor:
    """Return a layer's weight, dequantised if it is held in 4 or 8 bits (`bwlab.base.quantisation`)."""
    weight: Any = layer.weight
    if weight.is_floating_point():
        return layer.weight
    quantised: Any = layer
    if hasattr(weight, "quant_state"):
        from bitsandbytes.functional import dequantize_4bit

        dense: Tensor = dequantize_4bit(weight.data, weight.quant_state)
        return dense
    scales = weight.SCB if weight.SCB is not None else quantised.state.SCB
    rounded: Tensor = weight.data * (scales / 127)[:, None]
    return rounded


def refuse_unknown_options(type_name: str, options: Mapping[str, object], known: Collection[str] = ()) -> None:
    """Raise `BwlabError` for an option that is not in `known`."""
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise BwlabError(
            f"adapter type {type_name} with option {', '.join(unknown)}",
            "it has no such option",
            f"Known options: {', '.join(sorted(known)) or 'none beyond rank and alpha'}",
        )


def check_rank_and_alpha(rank: int, alpha: float) -> None:
    """Raise `BwlabError` unless rank is a whole number >= 1 and alpha is finite and above 0, as in a new layer."""
    check_rank(rank)
    if not math.isfinite(alpha) or alpha <= 0:
        raise BwlabError(
            f"an adapter layer with alpha {alpha}", "that is not a finite number above 0", "Give alpha > 0"
        )


def check_rank(rank: int) -> None:
    """Raise `BwlabError` unless rank is a whole number >= 1."""
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise BwlabError(f"an adapter layer of rank {rank}", "that is not a whole number >= 1", "Give a rank >= 1")


class BaseAwareLayer(AdapterLayer):
    """An adapter layer that gets the base layer when it acts, and the base weight when it computes its delta.

    It never stores either: one adapter may act on two models at once, and moving it moves no base weight. A type only
    has to define `delta`; it may override `forward` with a cheaper way than the dense weight.
    """

    needs_base_weight: ClassVar[bool] = True

    def on(self, base: AdaptedLayer) -> BoundLayer:
        """Return this layer together with the base layer that it acts on, for as long as it is attached."""
        assert isinstance(base, nn.Linear | nn.Conv2d)
        return BoundLayer(self, base)

    def forward(self, x: Tensor, base_output: Tensor, base: BaseLayer) -> Tensor:  # type: ignore[override]
        """Return the tensor that is added at scale 1: here the base layer's operation with `delta` as its weight.

        Args:
            x: as in `AdapterLayer.forward`.
            base_output: as in `AdapterLayer.forward`; it includes the bias, which the delta does not change.
            base: the frozen layer, for its weight, bias and geometry; do not change or store it.

        """
        delta = self.delta(dense_weight(base).to(self.weight_dtype())).to(self.compute_dtype())
        if isinstance(base, nn.Linear):
            return F.linear(x, delta)
        return F.conv2d(x, delta, None, base.stride, base.padding, base.dilation, base.groups)

    @abstractmethod
    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        """Return the change of `base_weight`, of its shape; see `require_base_weight`."""

    def require_base_weight(self, base_weight: Tensor | None) -> Tensor:
        """Return the base weight; raise `BwlabError` if there is none or it has another shape."""
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
        """Return `base_output` without the bias: the output of the weight alone, from which types such as OFT start."""
        if base.bias is None:
            return base_output
        ones = () if isinstance(base, nn.Linear) else (1, 1)
        return base_output - base.bias.to(base_output.dtype).view(-1, *ones)


@dataclass(frozen=True, eq=False)
class BoundLayer:
    """A base-aware layer with its base layer, used like any other adapter layer."""

    layer: BaseAwareLayer
    base: BaseLayer

    def __call__(self, x: Tensor, base_output: Tensor) -> Tensor:
        """Return the tensor that is added to `base_output` at scale 1."""
        part: Tensor = self.layer(x, base_output, self.base)
        return part

    def add_to(self, total: Tensor, x: Tensor, base_output: Tensor, scale: float) -> Tensor:
        """Return `total` plus `scale` times the result of `forward`, in the dtype of `total`."""
        part = self(x, base_output).to(total.dtype)
        return total + (part if scale == 1 else part * scale)

    def compute_dtype(self) -> torch.dtype:
        """Return the dtype of the adapter's own numbers."""
        return self.layer.compute_dtype()
