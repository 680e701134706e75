"""Gradients of frozen layers from less than PyTorch keeps.

Each takes the value that PyTorch's own forward pass made, and gives it back with another backward pass.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

ConvGeometry: TypeAlias = tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]


class FrozenConv(torch.autograd.Function):
    """A convolution that needs no gradient of its weight: only the weight is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, output: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
        """`output`, the convolution of `x` `(batch, in, h, w)`, as a new tensor on the same storage.

        Args:
            geometry: stride, padding, dilation and groups.
        """
        ctx.save_for_backward(weight)
        ctx.geometry, ctx.x_shape, ctx.x_dtype = geometry, x.shape, x.dtype
        return output.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient of `x`."""
        (weight,) = ctx.saved_tensors
        back = conv_input_gradient(gradient, weight.to(gradient.dtype), ctx.x_shape, ctx.geometry)
        return back.to(ctx.x_dtype), None, None, None


def conv_input_gradient(gradient: Tensor, weight: Tensor, shape: torch.Size, geometry: ConvGeometry) -> Tensor:
    """The gradient of a convolution's input.

    Args:
        gradient: of its output, `(batch, out, h', w')`.
        weight: `(out, in / groups, k, k)`.
        shape: of the input, `(batch, in, h, w)`.
        geometry: stride, padding, dilation and groups.
    """
    stride, padding, dilation, groups = geometry
    if groups == 1 and _is_weight_bound(gradient, weight):
        columns = torch.matmul(weight.flatten(1).t(), gradient.flatten(2))
        return F.fold(columns, shape[2:], weight.shape[2:], dilation, padding, stride)
    # Only the shape of the input is read; memory that is never written costs nothing.
    x = torch.empty(shape, dtype=gradient.dtype, device=gradient.device)
    mask = [True, False, False]
    found: Tensor = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, padding, dilation, False, [0, 0], groups, mask
    )[0]
    return found


def _is_weight_bound(gradient: Tensor, weight: Tensor) -> bool:
    """Whether reading the weight costs more than computing with it, on a CPU in single precision or better.

    oneDNN rearranges the whole weight at each call, so at few positions a plain matrix product and a sum over
    overlapping patches take half its time (measured with 1280 channels at 4 x 4, 8 x 8 and 16 x 16). In bfloat16
    oneDNN is the faster one.
    """
    if gradient.device.type != "cpu" or gradient.dtype not in (torch.float32, torch.float64):
        return False
    return 4 * gradient.shape[2:].numel() <= weight.shape[1]


class SiluOfNorm(torch.autograd.Function):
    """SiLU (`y * sigmoid(y)`) of a GroupNorm's output `y`, which is made anew from the norm's input."""

    @staticmethod
    def forward(
        ctx: Any, normed: Tensor, output: Tensor, x: Tensor, weight: Tensor, bias: Tensor, settings: tuple[int, float]
    ) -> Tensor:
        """`output`, SiLU of `normed`, as a new tensor on the same storage.

        Args:
            x: the norm's input `(batch, channels, h, w)`.
            settings: the norm's number of groups and epsilon.
        """
        ctx.save_for_backward(x.detach(), weight, bias)
        ctx.settings, ctx.dtype = settings, normed.dtype
        return output.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        """The gradient of `normed`."""
        x, weight, bias = ctx.saved_tensors
        groups, epsilon = ctx.settings
        normed = F.group_norm(x.to(ctx.dtype), groups, weight.to(ctx.dtype), bias.to(ctx.dtype), epsilon)
        return torch.ops.aten.silu_backward(gradient, normed), None, None, None, None, None


class Geglu(torch.autograd.Function):
    """GEGLU (Shazeer 2020, arXiv 2002.05202), `a * gelu(b)` of `[a, b]`, of which only `[a, b]` is kept."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor, output: Tensor) -> Tensor:
        """`output`, GEGLU of `projected` `(..., 2 * width)`, as a new tensor on the same storage."""
        ctx.save_for_backward(projected)
        return output.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient of `projected`, written half by half without a copy."""
        (projected,) = ctx.saved_tensors
        value, gate = projected.chunk(2, dim=-1)
        back = torch.empty_like(projected)
        of_value, of_gate = back.chunk(2, dim=-1)
        torch.mul(gradient, F.gelu(gate), out=of_value)
        torch.ops.aten.gelu_backward.grad_input(gradient * value, gate, approximate="none", grad_input=of_gate)
        return back, None
