"""The forward hook that adds adapters to a frozen layer's output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from bwlab.adapters.base_aware import OnBase
from bwlab.adapters.layer import AdaptedLayer, AdapterLayer
from bwlab.adapters.scales import LayerScale
from bwlab.errors import BwlabError


@dataclass(frozen=True, eq=False)
class LayerUse:
    """One adapter layer at work, with its scale: a number or one per sample `(batch,)`."""

    layer: AdapterLayer
    scale: LayerScale


class AdapterHook:
    """Adds the outputs of several adapter layers to one base layer's output.

    All of them see the same untouched input and base output, so that their order does not matter.
    """

    def __init__(self, base: AdaptedLayer, uses: Sequence[LayerUse]) -> None:
        self.parts = [(use.layer.on(base), use.scale) for use in uses]

    def __call__(self, module: object, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The layer's output with every adapter's part added, in the output's dtype."""
        adapted = output
        for layer, scale in self.parts:
            if isinstance(scale, Tensor):
                adapted = _add_per_sample(adapted, layer, scale, args[0], output)
            else:
                adapted = layer.add_to(adapted, _as_adapter(layer, args[0]), output, scale)
        return adapted


def hook_layers(layers: Sequence[tuple[AdaptedLayer, Sequence[LayerUse]]]) -> list[RemovableHandle]:
    """Sets one hook per base layer and returns the handles; if one cannot be set, none stays."""
    handles: list[RemovableHandle] = []
    try:
        for layer, uses in layers:
            handles.append(layer.register_forward_hook(AdapterHook(layer, uses)))
    except BaseException:
        for handle in handles:
            handle.remove()
        raise
    return handles


def _as_adapter(layer: AdapterLayer | OnBase, x: Tensor) -> Tensor:
    """The base layer's input in the dtype in which the adapter computes: outside autocast its own."""
    return x if torch.is_autocast_enabled(x.device.type) else x.to(layer.compute_dtype())


def _part(layer: AdapterLayer | OnBase, x: Tensor, output: Tensor) -> Tensor:
    """What the adapter adds, in the output's dtype."""
    part: Tensor = layer(_as_adapter(layer, x), output)
    return part.to(output.dtype)


def _add_per_sample(adapted: Tensor, layer: AdapterLayer | OnBase, scale: Tensor, x: Tensor, output: Tensor) -> Tensor:
    """`adapted` with `scale[i]` times the adapter's part added to sample i; samples of scale 0 keep their bits."""
    if output.shape[0] != scale.shape[0]:
        raise BwlabError(
            "an adapter scale per sample",
            f"{scale.shape[0]} scales for a batch of {output.shape[0]}",
            "Give one scale for each sample (with guidance the batch is doubled)",
        )
    scale = scale.to(output.device, output.dtype)
    if scale.requires_grad:
        return adapted + _part(layer, x, output) * _wide(scale, output)
    # Adding 0 * part would turn -0.0 into 0.0 and an infinite part into NaN, and costs the computation.
    rows = _rows(scale)
    if rows is None:
        return adapted
    part, factors = _part(layer, x[rows], output[rows]), scale[rows]
    if bool((factors != 1).any()):
        part = part * _wide(factors, output)
    # A sum of earlier adapters is nobody else's, unless the backward pass needs it.
    total = adapted.clone() if adapted is output or adapted.requires_grad else adapted
    if isinstance(rows, slice):
        total[rows] += part
        return total
    return total.index_add_(0, rows, part)


def _wide(scale: Tensor, output: Tensor) -> Tensor:
    return scale.view(-1, *(1 for _ in output.shape[1:]))


def _rows(scale: Tensor) -> slice | Tensor | None:
    """The samples whose scale is not 0: a slice, which copies nothing, where they stand side by side; None of none."""
    active = scale.nonzero().flatten()
    if not len(active):
        return None  # so small that the output's dtype takes it for 0
    first, last = int(active[0]), int(active[-1])
    return slice(first, last + 1) if last - first + 1 == len(active) else active
