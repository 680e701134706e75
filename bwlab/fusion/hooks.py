"""The hooks by which a fusion acts: one on each adapted layer, and one on the UNet for several evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bwlab.adapters.attach import ActingLayers, ScaledAdapter, ScaledLayer, acting_layers, hook_layers
from bwlab.adapters.folded import FoldedWeight
from bwlab.adapters.layer import AdaptedLayer
from bwlab.blocks.paths import in_unet
from bwlab.errors import BwlabError
from bwlab.fusion.method import FusionPlan, SamplingStep, adapter_numbers
from bwlab.fusion.types import Fusion


class FusedAdapters:
    """Adapters that act on one UNet as a fusion says, from `act` until `remove`.

    The UNet's modules and bits are never touched. In a step with several evaluations, a hook on the UNet does all but
    the first and combines the predictions. `fold` is that of `bwlab.adapters.attach.hook_layers`.
    """

    def __init__(
        self, unet: nn.Module, bases: Mapping[str, AdaptedLayer], fusion: Fusion, *, fold: bool = False
    ) -> None:
        self._unet, self._bases, self._fusion, self._fold = unet, bases, fusion, fold
        self._plan: FusionPlan | None = None
        self._passes: Sequence[ActingLayers] = ()
        self._layer_handles: list[RemovableHandle | FoldedWeight] = []
        self._unet_handle: RemovableHandle | None = None

    def plan(self, adapters: Sequence[ScaledAdapter]) -> bool:
        """Take these adapters with their scales, without schedules; return whether they act by step.

        Raises:
            BwlabError: the fusion does not take these adapters or this UNet.

        """
        layers = numbered_anew(acting_layers(adapters))
        if not self._fusion.mixes_samples():
            require_same_adapters(layers, self._fusion.type.name)
        self._plan = self._fusion.plan(layers, self._bases)
        return self._plan.by_step

    def act(self, step: SamplingStep) -> None:
        """Set the hooks of a step in place of the earlier hooks."""
        assert self._plan is not None
        self.remove()
        self._passes = self._plan.passes(step)
        self._hook(self._passes[0])
        if len(self._passes) > 1:
            self._unet_handle = self._unet.register_forward_hook(self._evaluate_rest, with_kwargs=True)

    def remove(self) -> None:
        """Remove all hooks."""
        self._unhook()
        if self._unet_handle is not None:
            self._unet_handle.remove()
            self._unet_handle = None

    def _hook(self, layers: ActingLayers) -> None:
        self._unhook()
        assert self._plan is not None
        self._layer_handles = hook_layers(layers, self._bases, self._plan.combine, fold=self._fold)

    def _unhook(self) -> None:
        for handle in self._layer_handles:
            handle.remove()
        self._layer_handles = []

    def _evaluate_rest(self, unet: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        """Return the weighted sum of the UNet's output with the first pass's layers and its outputs with the others'.

        The UNet's `forward` is called, not the UNet, so that this hook and those of others do not run again.
        """
        outputs = [output]
        for layers in self._passes[1:]:
            self._hook(layers)
            outputs.append(unet.forward(*arguments, **named))
        self._hook(self._passes[0])  # for the next call, which may belong to the same step
        assert self._plan is not None
        return weighted_output(outputs, self._plan.weights or [1 / len(outputs)] * len(outputs))


def weighted_output(outputs: Sequence[Any], weights: Sequence[float]) -> Any:
    """Return the weighted sum of outputs of one model: tensors, or tuples, lists or diffusers' outputs of tensors."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.stack([weight * output for weight, output in zip(weights, outputs, strict=True)]).sum(dim=0)
    if isinstance(first, Mapping):
        return type(first)(**{key: weighted_output([output[key] for output in outputs], weights) for key in first})
    return type(first)(weighted_output(each, weights) for each in zip(*outputs, strict=True))


def numbered_anew(layers: Mapping[str, Sequence[ScaledLayer]]) -> dict[str, list[ScaledLayer]]:
    """Return the layers with their adapters numbered from 0 without gaps: adapters with scale 0 do not count."""
    new = {number: index for index, number in enumerate(adapter_numbers(layers))}
    return {
        path: [ScaledLayer(scaled.layer, scaled.scale, new[scaled.adapter]) for scaled in own]
        for path, own in layers.items()
    }


def samples_by_adapter(layers: ActingLayers) -> dict[int, Tensor]:
    """Return the samples on whose UNet each adapter acts: a boolean for all samples, or one per sample `(batch,)`."""
    acts: dict[int, Tensor] = {}
    for scaled in (scaled for path, own in layers.items() if in_unet(path) for scaled in own):
        samples = torch.as_tensor(scaled.scale).cpu() != 0
        acts[scaled.adapter] = acts[scaled.adapter] | samples if scaled.adapter in acts else samples
    return acts


def require_same_adapters(layers: ActingLayers, name: str) -> None:
    """Raise `BwlabError` if an adapter acts on some samples of a batch only; an adapter alone may do so."""
    acts = samples_by_adapter(layers)
    partly = [number for number, samples in acts.items() if not bool(samples.all())]
    if partly and len(acts) > 1:
        found = f"adapter {partly[0] + 1} has scale 0 for some samples of the batch and another scale for others"
        raise BwlabError(f"--fusion {name}", found, "Sample those images apart")
