"""Keeps less for the backward pass than PyTorch does, at the same gradients.

PyTorch's layers keep whatever their backward pass might need. With frozen weights, and where a value is cheap to make
again, that is too much:

- a frozen convolution keeps its input, though its weight alone gives the gradient of the input;
- SiLU after GroupNorm keeps the norm's output, which the norm's input, kept anyway, gives again;
- GEGLU keeps the activated gate, which the projection's output, kept anyway, gives again.

Forward hooks replace these parts of the graph, so that no module is changed. Values of the forward pass keep their
bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

ConvGeometry: TypeAlias = tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]


@contextmanager
def lean_graph(model: nn.Module) -> Iterator[None]:
    """Inside the `with` block the model's forward passes keep less; backward passes belong inside it too.

    Whatever else hangs on the model's layers (adapters, probes) works as before, in any order. Layers that are not
    frozen, and everything under torch.compile, which plans its own memory, keep PyTorch's graph.
    """
    from diffusers.models.activations import GEGLU

    handles: list[RemovableHandle] = []
    pair = _NormSilu()
    try:
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                # First of all hooks: adapters add to what the convolution itself gives.
                handles.append(module.register_forward_hook(_lean_conv, prepend=True))
            elif isinstance(module, nn.GroupNorm):
                handles.append(module.register_forward_hook(pair.norm_done))
            elif isinstance(module, nn.SiLU):
                handles.append(module.register_forward_hook(pair.silu_done))
            elif isinstance(module, GEGLU):
                gate = _Gate()
                handles.append(module.proj.register_forward_hook(gate.projected))
                handles.append(module.register_forward_hook(gate.done))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _lean_conv(module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
    """Return the output of a frozen convolution on a graph that does not hold its input."""
    if not isinstance(module, nn.Conv2d) or not _made_by(output, "ConvolutionBackward0"):
        return None
    if module.weight.requires_grad or isinstance(module.padding, str) or module.padding_mode != "zeros":
        return None
    if module.bias is not None and module.bias.requires_grad:
        return None
    geometry = (module.stride, module.padding, module.dilation, module.groups)
    lean: Tensor = FrozenConv.apply(args[0], output.detach(), module.weight, geometry)
    return lean


class _NormSilu:
    """Tells whether SiLU's input is what a GroupNorm has just given."""

    def __init__(self) -> None:
        self._last: tuple[nn.GroupNorm, Tensor, Tensor] | None = None

    def norm_done(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Remember a GroupNorm's input and output until the next activation or norm."""
        assert isinstance(module, nn.GroupNorm)
        self._last = (module, args[0], output) if _made_by(output, "NativeGroupNormBackward0") else None

    def silu_done(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        """SiLU's output on a graph that holds the norm's input in place of its output."""
        last, self._last = self._last, None
        if last is None or args[0] is not last[2] or not _made_by(output, "SiluBackward0"):
            return None
        norm, x, normed = last
        if any(parameter.requires_grad for parameter in norm.parameters()):
            return None
        settings = (norm.num_groups, norm.eps)
        lean: Tensor = SiluOfNorm.apply(normed, output.detach(), x, norm.weight, norm.bias, settings)
        return lean


class _Gate:
    """One GEGLU: joins the output of its projection to its own output."""

    def __init__(self) -> None:
        self._projected: Tensor | None = None

    def projected(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Remember what the projection gave."""
        self._projected = output if isinstance(output, Tensor) and output.grad_fn is not None else None

    def done(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        """GEGLU's output on a graph that holds the projection's output only."""
        projected, self._projected = self._projected, None
        if projected is None or not _made_by(output, "MulBackward0"):
            return None
        # A hook set later may have put another tensor between the projection and the product.
        chunked = output.grad_fn.next_functions[0][0]
        if chunked is None or chunked.next_functions[0][0] is not projected.grad_fn:
            return None
        lean: Tensor = Geglu.apply(projected, output.detach())
        return lean


def _made_by(output: object, node: str) -> bool:
    """Whether a tensor was made by that kind of node of autograd's graph, outside torch.compile."""
    if torch.compiler.is_compiling() or not isinstance(output, Tensor) or output.grad_fn is None:
        return False
    return output.grad_fn.name() == node


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
        """Return the gradient of `x`."""
        (weight,) = ctx.saved_tensors
        back = conv_input_gradient(gradient, weight.to(gradient.dtype), ctx.x_shape, ctx.geometry)
        return back.to(ctx.x_dtype), None, None, None


def conv_input_gradient(gradient: Tensor, weight: Tensor, shape: torch.Size, geometry: ConvGeometry) -> Tensor:
    """Return the gradient of a convolution's input.

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
        """Return the gradient of `normed`."""
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
        """Return the gradient of `projected`, written half by half without a copy."""
        (projected,) = ctx.saved_tensors
        value, gate = projected.chunk(2, dim=-1)
        back = torch.empty_like(projected)
        of_value, of_gate = back.chunk(2, dim=-1)
        torch.mul(gradient, F.gelu(gate), out=of_value)
        torch.ops.aten.gelu_backward.grad_input(gradient * value, gate, approximate="none", grad_input=of_gate)
        return back, None
