"""Fusion by merged deltas: in each layer that several adapters adapt, one dense delta takes the place of theirs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bwlab.adapters.attach import ActingLayers, ScaledLayer
from bwlab.adapters.frozen import FrozenDeltaLayer
from bwlab.adapters.layer import AdaptedLayer
from bwlab.fusion.method import FusionMethod, FusionPlan, delta_of, same_at_every_step
from bwlab.linalg.factored import Array
from bwlab.linalg.sparse_merges import DARE_DENSITY, TIES_DENSITY, dare, module_generator, ties


class MergedDeltas(FusionMethod):
    """Merge the scaled deltas of each layer once; changes of a bias are added."""

    @abstractmethod
    def merged(self, path: str, deltas: Sequence[Array], adapters: Sequence[int]) -> Array:
        """Return the merge of scaled deltas of one layer, given the numbers of their adapters."""

    def plan(self, layers: ActingLayers, bases: Mapping[str, AdaptedLayer]) -> FusionPlan:
        """Return the plan with the merged layers."""
        return same_at_every_step({path: self._merged_layer(path, own, bases[path]) for path, own in layers.items()})

    def _merged_layer(self, path: str, own: Sequence[ScaledLayer], base: AdaptedLayer) -> Sequence[ScaledLayer]:
        """Return the merged layer; with scales per sample one for each combination of scales."""
        if len(own) == 1:
            return own
        rows = _scale_rows(own)
        deltas = [delta_of(scaled, base).double().cpu().numpy() for scaled in own]
        merged: list[ScaledLayer] = []
        for scales in dict.fromkeys(rows):
            acting = [index for index, scale in enumerate(scales) if scale]
            samples = torch.tensor([float(row == scales) for row in rows])
            mask = 1.0 if len(rows) == 1 else samples
            if len(acting) == 1:
                only = own[acting[0]]
                merged.append(ScaledLayer(only.layer, mask * scales[acting[0]], only.adapter))
            elif acting:
                parts = [deltas[index] * scales[index] for index in acting]
                delta = self.merged(path, parts, [own[index].adapter for index in acting])
                bias = _bias(own, scales)
                layer = FrozenDeltaLayer(base, torch.from_numpy(delta).to(base.weight.device, torch.float32), bias)
                merged.append(ScaledLayer(layer, mask))
        return merged


@dataclass(frozen=True)
class Ties(MergedDeltas):
    """TIES: trim each delta, elect a sign for each number, and average the numbers of that sign.

    Source: Yadav et al., TIES-Merging (arXiv 2306.01708); see `bwlab.linalg.sparse_merges.ties`.

    Attributes:
        density: share of the largest numbers of each delta that is kept, above 0 up to 1.

    """

    density: float = TIES_DENSITY

    def merged(self, path: str, deltas: Sequence[Array], adapters: Sequence[int]) -> Array:
        """Return the TIES merge."""
        return ties(deltas, self.density)


@dataclass(frozen=True)
class Dare(MergedDeltas):
    """DARE: drop numbers of each delta at random, rescale the others, and add.

    Source: Yu et al., DARE (arXiv 2311.03099); see `bwlab.linalg.sparse_merges.dare`.

    Attributes:
        density: share of the numbers that is kept, above 0 up to 1.
        seed: seed of the random choice, the same for every image.

    """

    density: float = DARE_DENSITY
    seed: int = 0

    def merged(self, path: str, deltas: Sequence[Array], adapters: Sequence[int]) -> Array:
        """Return the sum of the thinned deltas."""
        kept = [
            dare(delta, self.density, module_generator(self.seed, number, path))
            for delta, number in zip(deltas, adapters, strict=True)
        ]
        total: Array = sum(kept[1:], kept[0])
        return total


def _scale_rows(own: Sequence[ScaledLayer]) -> list[tuple[float, ...]]:
    """Return the scales of all layers for each sample; one row if no scale is per sample."""
    batch = max((len(scaled.scale) for scaled in own if isinstance(scaled.scale, Tensor)), default=1)
    columns = [scaled.scale.tolist() if isinstance(scaled.scale, Tensor) else [scaled.scale] * batch for scaled in own]
    return list(zip(*columns, strict=True))


def _bias(own: Sequence[ScaledLayer], scales: Sequence[float]) -> Tensor | None:
    """Return the sum of the scaled changes of the bias, which only layers from files have; None without changes."""
    changes = [
        scaled.layer.bias * scale
        for scaled, scale in zip(own, scales, strict=True)
        if isinstance(scaled.layer, FrozenDeltaLayer) and scaled.layer.bias is not None and scale
    ]
    return torch.stack(changes).sum(0) if changes else None
