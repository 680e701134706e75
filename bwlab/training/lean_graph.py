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
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bwlab.training.lean_functions import FrozenConv, Geglu, SiluOfNorm


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
    """The output of a frozen convolution on a graph that does not hold its input."""
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
