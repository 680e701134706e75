"""Attach adapters to a model and detach them: `with attach(unet, ScaledAdapter(adapter, "upper=1, *=0")): ...`.

Each adapted layer of the model gets one forward hook that adds what the adapters contribute to its output; leaving the
block removes the hooks. `layer_scale` resolves a scale per block to the scale of one layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bwlab.adapters.folded import FoldedWeight, can_fold
from bwlab.adapters.layer import AdaptedLayer, AdapterLayer, BoundLayer
from bwlab.adapters.modules import TextEncoders, adapted_by_path, check_fits
from bwlab.adapters.schedule import Schedule, parse_schedule
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import BlockSpec, parse_spec
from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from bwlab.adapters.adapter import Adapter


BlockScales: TypeAlias = Mapping[str, float | Tensor]
Scale: TypeAlias = float | BlockSpec | Tensor | BlockScales
LayerScale: TypeAlias = float | Tensor


@dataclass(frozen=True, eq=False, init=False)
class ScaledAdapter:
    """An adapter with its scale per block and its schedule over the sampling steps.

    Attributes:
        adapter: the loaded or new adapter.
        scale: a finite number, a `BlockSpec`, a tensor `(batch,)` with one number per sample, or a mapping from block,
            cell or module to a number or such a tensor.
        schedule: factor of the scale at each fraction of the sampling.

    """

    adapter: Adapter
    scale: Scale
    schedule: Schedule

    def __init__(
        self, adapter: Adapter, scale: Scale | str = 1.0, schedule: Schedule | str | float | None = None
    ) -> None:
        """Parse scale and schedule where they are text.

        Args:
            adapter: the adapter.
            scale: as the attribute, or a block spec as text, such as `"upper=1, *=0"`; blocks that it does not name
                keep 1.
            schedule: as the attribute, or text such as `"0-0.4:1, 0.4-1:0.3"`, or one factor for all steps; None: 1.

        Raises:
            BwlabError: the text or the mapping names an unknown block, or a number is wrong.

        """
        parsed = parse_spec(scale, adapter.scheme, kind="scale", default=1.0) if isinstance(scale, str) else scale
        if isinstance(parsed, Mapping):
            _require_names(parsed, adapter.scheme)
        object.__setattr__(self, "adapter", adapter)
        object.__setattr__(self, "scale", parsed)
        object.__setattr__(self, "schedule", parse_schedule(schedule))

    def at(self, fraction: float) -> ScaledAdapter:
        """Return the adapter with its scale at a fraction of the sampling, 0 <= fraction < 1.

        The schedule multiplies the scale of the UNet's layers. Layers of text encoders keep their scale, because a
        prompt is encoded once, before sampling begins.
        """
        factor = self.schedule.at(fraction)
        scale = self.scale if factor == 1 else with_factor(self.scale, factor, self.adapter.scheme)
        return ScaledAdapter(self.adapter, scale)


@contextmanager
def attach(unet: nn.Module, *adapters: ScaledAdapter, text_encoder: TextEncoders = None) -> Iterator[None]:
    """Let adapters act on a model inside the `with` block, and remove them however it ends; schedules are ignored.

    The model's modules, their identity and their bits are never touched: forward hooks add to the outputs. A layer
    whose scale is 0 gets no hook, so its output keeps its bits. Several adapters add up.

    Raises:
        BwlabError: an adapter does not fit this model, before any hook is set.

    """
    model_layers = adapted_by_path(unet, text_encoder)
    for scaled in adapters:
        check_fits(scaled.adapter.name, scaled.adapter.layers, model_layers)
    handles = hook_layers(acting_layers(adapters), model_layers)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, eq=False)
class ScaledLayer:
    """One adapter layer with its scale.

    Attributes:
        layer: the layer.
        scale: a number, or one per sample `(batch,)`.
        adapter: number of its adapter, from 0, in the order in which adapters were given.

    """

    layer: AdapterLayer
    scale: LayerScale
    adapter: int = 0


# Path -> the adapter layers that act there.
ActingLayers: TypeAlias = Mapping[str, Sequence[ScaledLayer]]
# (path, output of the base layer, the scaled part of each adapter layer there) -> the tensor to add to the output.
Combine: TypeAlias = Callable[[str, Tensor, Sequence[Tensor]], Tensor]


def acting_layers(adapters: Sequence[ScaledAdapter]) -> dict[str, list[ScaledLayer]]:
    """Return the adapter layers that act at each path, with their scales; layers with scale 0 are left out."""
    by_path: dict[str, list[ScaledLayer]] = {}
    for number, scaled in enumerate(adapters):
        for path, layer in scaled.adapter.layers.items():
            scale = layer_scale(scaled.scale, path, scaled.adapter.scheme)
            if not is_zero(scale):
                by_path.setdefault(path, []).append(ScaledLayer(layer, scale, number))
    return by_path


def hook_layers(
    layers: ActingLayers, bases: Mapping[str, AdaptedLayer], combine: Combine | None = None, *, fold: bool = False
) -> list[RemovableHandle | FoldedWeight]:
    """Set one hook per base layer and return the handles; if a hook cannot be set, all are removed.

    Args:
        layers: the adapter layers by path.
        bases: the layers of the model by path.
        combine: function that combines the parts of several adapter layers; None: they are added.
        fold: whether layers that allow it get a weight with the deltas added, in place of a hook. The layer then costs
            no more than without adapters, and its output differs by rounding.

    """
    handles: list[RemovableHandle | FoldedWeight] = []
    try:
        for path, own in layers.items():
            if fold and combine is None and all(can_fold(scaled.layer, scaled.scale, bases[path]) for scaled in own):
                handles.append(FoldedWeight(bases[path], [(scaled.layer, scaled.scale) for scaled in own]))
                continue
            hook = AdapterHook(bases[path], own, None if combine is None else partial(combine, path))
            handles.append(bases[path].register_forward_hook(hook))
    except BaseException:
        for handle in handles:
            handle.remove()
        raise
    return handles


class AdapterHook:
    """A hook that adds the outputs of several adapter layers to the output of one base layer.

    All adapter layers see the same unchanged input and base output, so their order does not matter.
    """

    def __init__(
        self,
        base: AdaptedLayer,
        layers: Sequence[ScaledLayer],
        combine: Callable[[Tensor, Sequence[Tensor]], Tensor] | None = None,
    ) -> None:
        self.parts = [(scaled.layer.on(base), scaled.scale) for scaled in layers]
        self.combine = combine if len(layers) > 1 else None

    def __call__(self, module: object, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return the output of the layer with the parts of all adapters added, in the dtype of the output."""
        if self.combine is not None:
            parts = [_add(torch.zeros_like(output), layer, scale, args[0], output) for layer, scale in self.parts]
            return output + self.combine(output, parts)
        adapted = output
        for layer, scale in self.parts:
            adapted = _add(adapted, layer, scale, args[0], output)
        return adapted


def _add(adapted: Tensor, layer: AdapterLayer | BoundLayer, scale: LayerScale, x: Tensor, output: Tensor) -> Tensor:
    """Return `adapted` plus the scaled part of one adapter layer."""
    if isinstance(scale, Tensor):
        return _add_per_sample(adapted, layer, scale, x, output)
    return layer.add_to(adapted, _as_adapter(layer, x), output, scale)


def _as_adapter(layer: AdapterLayer | BoundLayer, x: Tensor) -> Tensor:
    """Return the base layer's input in the dtype in which the adapter computes: its own dtype outside autocast."""
    return x if torch.is_autocast_enabled(x.device.type) else x.to(layer.compute_dtype())


def _part(layer: AdapterLayer | BoundLayer, x: Tensor, output: Tensor) -> Tensor:
    """Return the part that the adapter adds, in the dtype of the output."""
    part: Tensor = layer(_as_adapter(layer, x), output)
    return part.to(output.dtype)


def _add_per_sample(
    adapted: Tensor, layer: AdapterLayer | BoundLayer, scale: Tensor, x: Tensor, output: Tensor
) -> Tensor:
    """Return `adapted` plus `scale[i]` times the adapter's part of sample i; samples with scale 0 keep their bits."""
    if output.shape[0] != scale.shape[0]:
        raise BwlabError(
            "an adapter scale per sample",
            f"{scale.shape[0]} scales for a batch of {output.shape[0]}",
            "Give one scale for each sample (with guidance the batch is doubled); where text encoders are adapted too, "
            'which read prompts one by one, give {"te": 1, "*": scales}',
        )
    scale = scale.to(output.dtype)
    if scale.requires_grad:
        return adapted + _part(layer, x, output) * _wide(scale, output)
    # Adding 0 * part would turn -0.0 into 0.0 and an infinite part into NaN, and costs the computation.
    factors = scale.tolist()  # a few numbers, which Python handles faster than PyTorch
    rows = _rows(factors)
    if rows is None:
        return adapted
    part = _part(layer, x[rows], output[rows])
    if any(factor not in (0, 1) for factor in factors):
        part = part * _wide(scale[rows], output)
    # A sum of earlier adapters is nobody else's, unless the backward pass needs it.
    total = adapted.clone() if adapted is output or adapted.requires_grad else adapted
    if isinstance(rows, slice):
        total[rows] += part
        return total
    return total.index_add_(0, torch.tensor(rows, device=output.device), part)


def _wide(scale: Tensor, output: Tensor) -> Tensor:
    return scale.to(output.device).view(-1, *(1 for _ in output.shape[1:]))


def _rows(factors: Sequence[float]) -> slice | list[int] | None:
    """Return the samples whose scale is not 0, as a slice if they are adjacent; None if there are none."""
    active = [row for row, factor in enumerate(factors) if factor]
    if not active:
        return None  # The scales are so small that the output's dtype rounds them to 0.
    first, last = active[0], active[-1]
    return slice(first, last + 1) if last - first + 1 == len(active) else active


def layer_scale(scale: Scale, path: str, scheme: BlockScheme) -> LayerScale:
    """Return the scale of the layer at `path`: a finite number, or a tensor `(batch,)` with one number per sample.

    A mapping goes from block (`"in0"`), cell (`"in0.1"`) or module (`"down_blocks.0.resnets.1"`) to a number or a
    tensor; the finest entry wins, and `"*"` stands for all others. A layer that the mapping does not cover is an
    error, because a forgotten block would silently be off.
    """
    if isinstance(scale, BlockSpec):
        return _checked(scale.value_of(path), path)
    if not isinstance(scale, Mapping):
        return _checked(scale, path)
    module = scheme.module_of(path)
    names = ("*",) if module is None else (module.path, module.cell, module.block, "*")
    for name in names:
        if name in scale:
            return _checked(scale[name], path)
    raise BwlabError(
        "scales for each block",
        f"none for {path} (in {' or '.join(names[:-1]) or 'no block'}); named are {', '.join(scale)}",
        'Name every block that the adapter covers, or give "*"',
    )


def _require_names(scales: BlockScales, scheme: BlockScheme) -> None:
    """Raise BwlabError for a name in a mapping of scales that is no block, cell or module."""
    known = {name for module in scheme.modules for name in (module.path, module.cell, module.block)}
    for name in scales:
        if name not in known and name not in ("*", "te"):
            paths = scheme.modules_of(name)  # raises for a name that there is not
            blocks = ", ".join(dict.fromkeys(module.block for module in scheme.modules if module.path in paths))
            fix = f"Name its blocks ({blocks}), or give a block spec as text, which knows parts"
            raise BwlabError(f"scales for each block: {name}", "it is no block, cell or module", fix)


def with_factor(scale: Scale, factor: float, scheme: BlockScheme) -> Scale:
    """Return `scale` multiplied by a factor on the UNet's layers, and unchanged on the layers of text encoders.

    Args:
        scale: an adapter's scale.
        factor: a finite number.
        scheme: the block scheme of the adapter's model.

    """
    text = {name for module in scheme.modules if module.block == "te" for name in ("te", module.cell, module.path)}
    if isinstance(scale, BlockSpec):
        return {path: value if path in text else value * factor for path, value in scale.values.items()}
    if not isinstance(scale, Mapping):
        return {"te": scale, "*": scale * factor}
    others = {name: value if name in text else value * factor for name, value in scale.items()}
    return {"te": scale["*"], **others} if "*" in scale else others


def is_zero(scale: LayerScale) -> bool:
    """Return whether a layer can be left out: its scale is 0 for all samples and needs no gradient."""
    if isinstance(scale, Tensor):
        return not scale.requires_grad and not bool(scale.any())
    return scale == 0


def _checked(scale: float | Tensor, path: str) -> LayerScale:
    if isinstance(scale, Tensor):
        if scale.dim() > 1 or not all(map(math.isfinite, scale.reshape(-1).tolist())):
            found = f"a tensor of shape {tuple(scale.shape)} at {path}"
            raise BwlabError("a scale per sample", found, "Give a tensor of shape (batch,) of finite numbers")
        return scale if scale.dim() == 1 else float(scale)
    if not math.isfinite(scale):
        raise BwlabError(f"scale {scale} at {path}", "it is not a finite number", "Give a finite scale")
    return float(scale)
