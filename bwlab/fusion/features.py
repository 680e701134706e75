"""Fusion that selects one adapter in each layer by what it does to the features: the largest KL divergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bwlab.adapters.attach import ActingLayers
from bwlab.adapters.layer import AdaptedLayer
from bwlab.fusion.method import FusionMethod, FusionPlan, same_at_every_step


@dataclass(frozen=True)
class FeatureSelection(FusionMethod):
    """In each layer and sample, only the adapter acts that moves the features furthest from those of the base.

    Source: Cao et al., Dynamic Training-Free Fusion of Subject and Style LoRAs (arXiv 2602.15539), feature-level
    selection: the adapter with the larger KL divergence between the base layer's features and its own acts. By
    summaries of the paper (its text was not at hand) it leaves open how features become probabilities; here they are a
    softmax over the channels, and the divergence is averaged over the positions. Its correction of the latents by CLIP
    and DINO is left out.
    """

    mixes_samples: ClassVar[bool] = True

    def plan(self, layers: ActingLayers, bases: Mapping[str, AdaptedLayer]) -> FusionPlan:
        """Return the plan in which all layers are computed and one part is kept."""
        return same_at_every_step(layers, combine=furthest_part)


def furthest_part(path: str, base_output: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """Return for each sample the part that moves the base layer's output furthest; the first of equal parts."""
    divergences = torch.stack([divergence(base_output, base_output + part) for part in parts])
    chosen = divergences.argmax(dim=0)
    total = torch.zeros_like(base_output)
    for number, part in enumerate(parts):
        acts = (chosen == number).view(-1, *(1 for _ in base_output.shape[1:]))
        total = torch.where(acts, part, total)
    return total


def divergence(features: Tensor, moved: Tensor) -> Tensor:
    """Return the KL divergence from the features of a layer to moved ones, `(batch,)`, 0 or more, in nats.

    Args:
        features: output of the base layer, `(batch, ..., channels)` or `(batch, channels, h, w)`.
        moved: the output with one adapter, of the same shape.

    """
    channels = 1 if features.dim() == 4 else -1
    base, other = (tensor.float().log_softmax(dim=channels) for tensor in (features, moved))
    positions = (base.exp() * (base - other)).sum(dim=channels)
    return positions.flatten(1).mean(dim=1) if positions.dim() > 1 else positions
