"""Convolutions to few channels, as matrix products: fast on CPUs, where oneDNN's kernels for them are slow.

A k x k convolution of stride 1 is one product of the weight, as `(k * k * out, in)`, with the input, followed by a sum
over shifted copies. With few output channels these copies are small, so the input is never unfolded. The
same holds for the backward pass, which takes a tenth of oneDNN's time at rank 16 on SD 1.4's UNet in bfloat16.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Padding: TypeAlias = tuple[int, int]


class NarrowConv(torch.autograd.Function):
    """`conv2d(x, weight, padding=padding)` of stride and dilation 1; x and the weight are kept for backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: Padding) -> Tensor:
        """Return the convolution, `(batch, out, h', w')`.

        Args:
            x: `(batch, in, h, w)`.
            weight: `(out, in, k, k')`, of x's dtype.
            padding: rows and columns of zeros on each side, less than the kernel's size.

        """
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        kernel = weight.shape[2:]
        sizes = tuple(size + 2 * pad - k + 1 for size, pad, k in zip(x.shape[2:], padding, kernel, strict=True))
        taps = torch.matmul(_as_matrix(weight), x.flatten(2))
        # Summed in single precision at least, as a convolution's kernel does.
        wide = taps if taps.dtype == torch.float64 else taps.float()
        return F.fold(wide, sizes, kernel, padding=_turned(padding, weight)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients of x and of the weight, where they are needed; None elsewhere."""
        x, weight = ctx.saved_tensors
        taps = F.unfold(gradient, weight.shape[2:], padding=_turned(ctx.padding, weight))
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = torch.matmul(_as_matrix(weight).t(), taps).view(x.shape)
        if ctx.needs_input_grad[1]:
            of_weight = _from_matrix(torch.matmul(taps, x.flatten(2).transpose(1, 2)).sum(0), weight.shape)
        return of_x, of_weight, None


def _as_matrix(weight: Tensor) -> Tensor:
    """`(out, in, k, k')` as `(out * k * k', in)` with the kernel turned by 180 degrees."""
    return weight.flatten(2).flip(2).transpose(1, 2).flatten(0, 1)


def _from_matrix(matrix: Tensor, shape: torch.Size) -> Tensor:
    """Return the inverse of `_as_matrix`."""
    return matrix.view(shape[0], -1, shape[1]).flip(1).transpose(1, 2).reshape(shape)


def _turned(padding: Padding, weight: Tensor) -> Padding:
    """Return the padding of the transposed operation."""
    return weight.shape[2] - 1 - padding[0], weight.shape[3] - 1 - padding[1]
