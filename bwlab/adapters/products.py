"""The product `up(down(x))` of a low-rank delta, applied to what a layer gets."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bwlab.adapters.layer import BaseLayer
from bwlab.adapters.narrow_conv import NarrowConv
from bwlab.errors import BwlabError

# Stride, padding and dilation of a convolution; None for a linear layer.
Geometry: TypeAlias = tuple[tuple[int, int], tuple[int, int] | str, tuple[int, int]] | None


def geometry_of(layer: BaseLayer) -> Geometry:
    """How a low-rank delta on `layer` moves over its input; raises `BwlabError` for a grouped convolution."""
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


def lowered(x: Tensor, down: Tensor, geometry: Geometry) -> Tensor:
    """`down(x)`: `(..., rank)`, or `(batch, rank, h', w')` with down `(rank, in, k, k)`."""
    if geometry is None:
        return F.linear(x, down)
    stride, padding, dilation = geometry
    return F.conv2d(x, down, None, stride, padding, dilation)


def lowered_fast(x: Tensor, down: Tensor, geometry: Geometry) -> Tensor:
    """`down(x)` by matrix products where PyTorch's convolution is slow, above all backwards.

    That is on CPUs, for 1 x 1 convolutions and in half precision; otherwise it is `lowered`.
    """
    if geometry is None or x.device.type != "cpu" or torch.compiler.is_compiling():
        return lowered(x, down, geometry)
    (stride, padding, dilation), kernel = geometry, down.shape[2:]
    if stride != (1, 1) or dilation != (1, 1) or isinstance(padding, str) or max(padding) >= min(kernel):
        return lowered(x, down, geometry)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if dtype.itemsize > 2 and kernel.numel() > 1:
        return lowered(x, down, geometry)
    hidden: Tensor = NarrowConv.apply(x.to(dtype), down.to(dtype), padding)
    return hidden


def raised(hidden: Tensor, up: Tensor) -> Tensor:
    """`up(hidden)`: `(..., out)`, or `(batch, out, h', w')` with up `(out, rank, 1, 1)`."""
    return F.linear(hidden, up) if up.dim() == 2 else F.conv2d(hidden, up)


def plus_raised(total: Tensor, hidden: Tensor, up: Tensor, strength: float) -> Tensor:
    """`total + strength * up(hidden)` in `total`'s dtype, with one pass over `total` in place of three.

    The strength is folded into the product and the product into the sum; for the backward pass only `hidden` is kept.
    """
    if hidden.dtype != total.dtype:
        return total + (raised(hidden, up) * strength).to(total.dtype)
    if up.dim() == 2:
        rows = torch.addmm(total.flatten(0, -2), hidden.flatten(0, -2), up.t(), alpha=strength)
        return rows.view(total.shape)
    wide = up.flatten(1).expand(len(total), -1, -1)
    return torch.baddbmm(total.flatten(2), wide, hidden.flatten(2), alpha=strength).view(total.shape)
