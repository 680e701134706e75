"""The low-rank adapter layer of LoRA and LoCon, `s * up(down(x))` with `s = alpha / rank`, and its operations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bwlab.adapters.layer import (
    AdapterLayer,
    BaseLayer,
    check_rank,
    check_rank_and_alpha,
    refuse_unknown_options,
    weight_shape,
)
from bwlab.adapters.narrow_conv import NarrowConv
from bwlab.errors import BwlabError
from bwlab.formats.keys import ALPHA, DOWN, UP

if TYPE_CHECKING:
    from bwlab.linalg.factored import FactoredMatrix


# Stride, padding and dilation of a convolution; None for a linear layer.
Geometry: TypeAlias = tuple[tuple[int, int], tuple[int, int] | str, tuple[int, int]] | None


class LowRankLayer(AdapterLayer):
    """LoRA (Hu et al. 2021, arXiv 2106.09685) on a Linear, or its LoCon form on a k x k Conv2d.

    Linear: down `(rank, in)`, up `(out, rank)`. Conv2d: down is a k x k conv `(rank, in, k, k)` with the base layer's
    stride, padding and dilation, up a 1 x 1 conv `(out, rank, 1, 1)`. Down starts at kaiming-uniform with a = sqrt(5)
    (as in kohya's trainer) and up at zero, so a new layer changes nothing.
    """

    type_name = "lowrank"

    def __init__(self, layer: BaseLayer, down: Tensor, up: Tensor, alpha: float) -> None:
        super().__init__()
        self._geometry = geometry_of(layer)
        self.weight_shape = weight_shape(layer)
        self.rank = int(down.shape[0])
        check_rank(self.rank)
        if not math.isfinite(alpha) or alpha == 0:
            raise BwlabError(f"an adapter layer with alpha {alpha}", "it is 0 or not finite", "Correct the file")
        self.alpha = float(alpha)  # below 0 in files of LyCORIS' `use_scalar`
        _check_shapes(self.weight_shape, down, up)
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(up)

    @property
    def scale(self) -> float:
        """`alpha / rank`, the factor of the delta."""
        return self.alpha / self.rank

    @classmethod
    def create(
        cls, layer: BaseLayer, rank: int, alpha: float, generator: torch.Generator | None, **options: object
    ) -> Self:
        """Return a no-op adapter of this rank in float32 on the layer's device; raise `BwlabError` for any option."""
        refuse_unknown_options(cls.type_name, options)
        check_rank_and_alpha(rank, alpha)
        out, *inner = weight_shape(layer)
        # Drawn where the generator lives, so that one seed gives the same adapter on every device.
        device = generator.device if generator is not None else torch.device("cpu")
        down = torch.empty(rank, *inner, device=device)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        up = torch.zeros(out, rank, *(1 for _ in inner[1:]))
        return cls(layer, down.to(layer.weight.device), up.to(layer.weight.device), alpha)

    @classmethod
    def from_tensors(cls, layer: BaseLayer, tensors: Mapping[str, Tensor]) -> Self:
        """Return the layer from `lora_down.weight`, `lora_up.weight` and `alpha` (without alpha: the rank)."""
        unknown = sorted(set(tensors) - {DOWN, UP, ALPHA})
        missing = sorted({DOWN, UP} - set(tensors))
        if unknown or missing:
            found = f"tensors {', '.join(sorted(tensors))}"
            raise BwlabError(f"a {cls.type_name} layer", found, f"It is made of {DOWN}, {UP} and {ALPHA}")
        down = tensors[DOWN].detach().clone()
        alpha = float(tensors[ALPHA]) if ALPHA in tensors else float(down.shape[0])
        return cls(layer, down, tensors[UP].detach().clone(), alpha)

    def tensors(self) -> dict[str, Tensor]:
        """Return `lora_down.weight`, `lora_up.weight` and `alpha`."""
        return {DOWN: self.down.detach(), UP: self.up.detach(), ALPHA: torch.tensor(self.alpha)}

    def file_tensors(self, alpha: float) -> dict[str, Tensor]:
        """Return `tensors()` with `self.alpha / alpha` folded into up, as on save: the same delta with another alpha.

        Files of other tools are written by `bwlab.formats.modules.with_alpha`.
        """
        if alpha == self.alpha:
            return self.tensors()
        up = self.up.detach() * (self.alpha / alpha)
        return {DOWN: self.down.detach(), UP: up, ALPHA: torch.tensor(alpha)}

    def forward(self, x: Tensor, base_output: Tensor) -> Tensor:
        """Return `s * up(down(x))`, of `base_output`'s shape."""
        return project_up(project_down(x, self.down, self._geometry), self.up) * self.scale

    def add_to(self, total: Tensor, x: Tensor, base_output: Tensor, scale: float) -> Tensor:
        """Return `total + scale * s * up(down(x))`, in one pass over `total`.

        The backward pass keeps only x, which the layers beside it share, and `down(x)`.
        """
        if type(self).forward is not LowRankLayer.forward:
            return super().add_to(total, x, base_output, scale)  # The type computes something else.
        hidden = project_down_fast(x, self.down, self._geometry)
        return add_projected_up(total, hidden, self.up, scale * self.scale)

    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        """Return `s * up @ down` in the shape of the weight; the base weight is not needed.

        Of a convolution, up `(out, r)` times down `(r, in * k * k)` becomes `(out, in, k, k)`. The delta of a module
        in a file, without torch, is `bwlab.formats.algorithms.lora.Lora.delta`.
        """
        product = self.up.flatten(1) @ self.down.flatten(1) * self.scale
        return product.reshape(self.weight_shape)

    def factors(self) -> FactoredMatrix:
        """Return up `(out, r)` with the scale folded in and down `(r, in * k * k)`, as float64 arrays."""
        from bwlab.linalg.factored import FactoredMatrix

        up = self.up.detach().flatten(1).double().cpu() * self.scale
        return FactoredMatrix(up.numpy(), self.down.detach().flatten(1).double().cpu().numpy())


def _check_shapes(weight_shape: tuple[int, ...], down: Tensor, up: Tensor) -> None:
    rank, ones = down.shape[0], (1,) * (len(weight_shape) - 2)
    expected_down, expected_up = (rank, *weight_shape[1:]), (weight_shape[0], rank, *ones)
    if tuple(down.shape) != expected_down or tuple(up.shape) != expected_up:
        raise BwlabError(
            f"a low-rank adapter on a weight of shape {weight_shape}",
            f"down {tuple(down.shape)} and up {tuple(up.shape)}",
            f"It takes down {expected_down} and up {expected_up}: this adapter was made for another model",
        )


def geometry_of(layer: BaseLayer) -> Geometry:
    """Return stride, padding and dilation of a convolution; raise `BwlabError` for a grouped one."""
    if isinstance(layer, nn.Linear):
        return None
    if layer.groups != 1 or layer.padding_mode != "zeros":
        raise BwlabError(
            "a low-rank adapter on a convolution",
            f"it has groups={layer.groups} and padding_mode={layer.padding_mode!r}",
            "Only plain convolutions (groups=1, zero padding) can be adapted",
        )
    stride, padding, dilation = layer.stride, layer.padding, layer.dilation
    plain_padding = padding if isinstance(padding, str) else (padding[0], padding[1])
    return (stride[0], stride[1]), plain_padding, (dilation[0], dilation[1])


def project_down(x: Tensor, down: Tensor, geometry: Geometry) -> Tensor:
    """Return `down(x)`: `(..., rank)`, or `(batch, rank, h', w')` with down `(rank, in, k, k)`."""
    if geometry is None:
        return F.linear(x, down)
    stride, padding, dilation = geometry
    return F.conv2d(x, down, None, stride, padding, dilation)


def project_down_fast(x: Tensor, down: Tensor, geometry: Geometry) -> Tensor:
    """Return `down(x)`, by matrix products where PyTorch's convolution is slow, above all in the backward pass.

    It is slow on CPUs for 1 x 1 convolutions and in half precision; elsewhere this is `project_down`.
    """
    if geometry is None or x.device.type != "cpu" or torch.compiler.is_compiling():
        return project_down(x, down, geometry)
    (stride, padding, dilation), kernel = geometry, down.shape[2:]
    if stride != (1, 1) or dilation != (1, 1) or isinstance(padding, str) or max(padding) >= min(kernel):
        return project_down(x, down, geometry)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if dtype.itemsize > 2 and kernel.numel() > 1:
        return project_down(x, down, geometry)
    hidden: Tensor = NarrowConv.apply(x.to(dtype), down.to(dtype), padding)
    return hidden


def project_up(hidden: Tensor, up: Tensor) -> Tensor:
    """Return `up(hidden)`: `(..., out)`, or `(batch, out, h', w')` with up `(out, rank, 1, 1)`."""
    return F.linear(hidden, up) if up.dim() == 2 else F.conv2d(hidden, up)


def add_projected_up(total: Tensor, hidden: Tensor, up: Tensor, scale: float) -> Tensor:
    """Return `total + scale * up(hidden)` in `total`'s dtype, with one pass over `total` in place of three.

    The scale is folded into the product and the product into the sum; the backward pass keeps only `hidden`.
    """
    if hidden.dtype != total.dtype:
        return total + (project_up(hidden, up) * scale).to(total.dtype)
    if up.dim() == 2:
        rows = torch.addmm(total.flatten(0, -2), hidden.flatten(0, -2), up.t(), alpha=scale)
        return rows.view(total.shape)
    wide = up.flatten(1).expand(len(total), -1, -1)
    return torch.baddbmm(total.flatten(2), wide, hidden.flatten(2), alpha=scale).view(total.shape)
