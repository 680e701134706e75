"""A graph that keeps less for the backward pass than PyTorch's does, with the same gradients.

PyTorch's layers keep all that their backward pass might need. With frozen weights, and where a value is cheap to
compute again, that is too much:

- a frozen convolution keeps its input, though its weight alone gives the gradient of the input;
- SiLU after GroupNorm keeps the norm's output, which can be computed from the norm's input, which is kept anyway;
- GEGLU keeps the activated gate, which can be computed from the projection's output, which is kept anyway.

Forward hooks replace these parts of the graph, so that no module is changed. The values of the forward pass keep their
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
    """Keep less in a model's forward passes for a `with` block; backward passes belong inside it too.

    Other hooks on the model's layers (adapters, probes) work as before, in any order. Layers that are not frozen keep
    PyTorch's graph, and so does everything under torch.compile, which plans its own memory.
    """
    from diffusers.models.activations import GEGLU

    handles: list[RemovableHandle] = []
    norm_silu = _NormSilu()
    try:
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                # Before all other hooks: adapters add to the output of the convolution itself.
                handles.append(module.register_forward_hook(_lean_conv, prepend=True))
            elif isinstance(module, nn.GroupNorm):
                handles.append(module.register_forward_hook(norm_silu.after_norm))
            elif isinstance(module, nn.SiLU):
                handles.append(module.register_forward_hook(norm_silu.after_silu))
            elif isinstance(module, GEGLU):
                geglu = _Geglu()
                handles.append(module.proj.register_forward_hook(geglu.after_projection))
                handles.append(module.register_forward_hook(geglu.after_geglu))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _lean_conv(module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
    """Return the output of a frozen convolution on a graph that does not hold its input."""
    if not isinstance(module, nn.Conv2d) or not _is_output_of(output, "ConvolutionBackward0"):
        return None
    if module.weight.requires_grad or isinstance(module.padding, str) or module.padding_mode != "zeros":
        return None
    if module.bias is not None and module.bias.requires_grad:
        return None
    geometry = (module.stride, module.padding, module.dilation, module.groups)
    lean: Tensor = FrozenConv.apply(args[0], output.detach(), module.weight, geometry)
    return lean


class _NormSilu:
    """Hooks that notice when the input of a SiLU is the output of the GroupNorm just before it."""

    def __init__(self) -> None:
        self._last: tuple[nn.GroupNorm, Tensor, Tensor] | None = None

    def after_norm(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Remember a GroupNorm's input and output until the next activation or norm."""
        assert isinstance(module, nn.GroupNorm)
        self._last = (module, args[0], output) if _is_output_of(output, "NativeGroupNormBackward0") else None

    def after_silu(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        """Return SiLU's output on a graph that holds the norm's input instead of the norm's output."""
        last, self._last = self._last, None
        if last is None or args[0] is not last[2] or not _is_output_of(output, "SiluBackward0"):
            return None
        norm, x, normed = last
        if any(parameter.requires_grad for parameter in norm.parameters()):
            return None
        settings = (norm.num_groups, norm.eps)
        lean: Tensor = SiluOfNorm.apply(normed, output.detach(), x, norm.weight, norm.bias, settings)
        return lean


class _Geglu:
    """Hooks of one GEGLU that connect the output of its projection to its own output."""

    def __init__(self) -> None:
        self._projected: Tensor | None = None

    def after_projection(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Remember the output of the projection."""
        self._projected = output if isinstance(output, Tensor) and output.grad_fn is not None else None

    def after_geglu(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        """Return GEGLU's output on a graph that holds the projection's output only."""
        projected, self._projected = self._projected, None
        if projected is None or not _is_output_of(output, "MulBackward0"):
            return None
        # A hook registered later may have put another tensor between the projection and the product.
        chunked = output.grad_fn.next_functions[0][0]
        if chunked is None or chunked.next_functions[0][0] is not projected.grad_fn:
            return None
        lean: Tensor = Geglu.apply(projected, output.detach())
        return lean


def _is_output_of(output: object, node: str) -> bool:
    """Return whether a tensor is the output of that kind of node in autograd's graph, outside torch.compile."""
    if torch.compiler.is_compiling() or not isinstance(output, Tensor) or output.grad_fn is None:
        return False
    return output.grad_fn.name() == node


class FrozenConv(torch.autograd.Function):
    """A convolution with a frozen weight, which keeps the weight alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, output: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
        """Return `output`, the convolution of `x` `(batch, in, h, w)`, as a new tensor on the same storage.

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
        gradient: gradient of the output, `(batch, out, h', w')`.
        weight: `(out, in / groups, k, k)`.
        shape: shape of the input, `(batch, in, h, w)`.
        geometry: stride, padding, dilation and groups.

    """
    stride, padding, dilation, groups = geometry
    if groups == 1 and _is_weight_bound(gradient, weight):
        columns = torch.matmul(weight.flatten(1).t(), gradient.flatten(2))
        return F.fold(columns, shape[2:], weight.shape[2:], dilation, padding, stride)
    # Only the shape of the input is read; memory that is never written costs nothing.
    x = torch.empty(shape, dtype=gradient.dtype, device=gradient.device)
    mask = [True, False, False]
    input_gradient: Tensor = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, padding, dilation, False, [0, 0], groups, mask
    )[0]
    return input_gradient


def _is_weight_bound(gradient: Tensor, weight: Tensor) -> bool:
    """Return whether reading the weight costs more than computing with it, on a CPU in single precision or better.

    oneDNN rearranges the whole weight at each call, so at few positions a plain matrix product and a sum over
    overlapping patches take half its time (measured with 1280 channels at 4 x 4, 8 x 8 and 16 x 16). In bfloat16
    oneDNN is faster.
    """
    if gradient.device.type != "cpu" or gradient.dtype not in (torch.float32, torch.float64):
        return False
    return 4 * gradient.shape[2:].numel() <= weight.shape[1]


class SiluOfNorm(torch.autograd.Function):
    """SiLU (`y * sigmoid(y)`) of a GroupNorm's output `y`, which is computed again from the norm's input."""

    @staticmethod
    def forward(
        ctx: Any, normed: Tensor, output: Tensor, x: Tensor, weight: Tensor, bias: Tensor, settings: tuple[int, float]
    ) -> Tensor:
        """Return `output`, SiLU of `normed`, as a new tensor on the same storage.

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
    """GEGLU (Shazeer 2020, arXiv 2002.05202), `a * gelu(b)` of `[a, b]`, which keeps `[a, b]` alone."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor, output: Tensor) -> Tensor:
        """Return `output`, GEGLU of `projected` `(..., 2 * width)`, as a new tensor on the same storage."""
        ctx.save_for_backward(projected)
        return output.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of `projected`, written half by half without a copy."""
        (projected,) = ctx.saved_tensors
        value, gate = projected.chunk(2, dim=-1)
        back = torch.empty_like(projected)
        value_back, gate_back = back.chunk(2, dim=-1)
        torch.mul(gradient, F.gelu(gate), out=value_back)
        torch.ops.aten.gelu_backward.grad_input(gradient * value, gate, approximate="none", grad_input=gate_back)
        return back, None
