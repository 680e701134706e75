"""Fusion without a look at the weights: the plain sum, guidance by the base, LoRA Switch and LoRA Composite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from bwlab.adapters.attach import ActingLayers
from bwlab.adapters.layer import AdaptedLayer
from bwlab.fusion.method import FusionMethod, FusionPlan, adapter_numbers, of_adapter, same_at_every_step


@dataclass(frozen=True)
class Sum(FusionMethod):
    """The parts of all adapters are added in every layer, at every step."""

    mixes_samples: ClassVar[bool] = True

    def plan(self, layers: ActingLayers, bases: Mapping[str, AdaptedLayer]) -> FusionPlan:
        """Return the plan in which all layers act."""
        return same_at_every_step(layers)


@dataclass(frozen=True)
class Guided(FusionMethod):
    """The plain sum, led away from the base: what the adapters change in each prediction is enlarged.

    The prediction is `e + guidance * (e - e_base)`, with e that of the UNet with all adapters, and e_base that without.
    The formula is that of autoguidance (Karras et al., arXiv 2406.02507), where a weaker model leads a stronger one; to
    take the base as the weaker one, and to do so for several adapters at once, is bwlab's own.

    Attributes:
        guidance: 0 or more; at 0 it is the sum.

    """

    guidance: float = 0.3

    def plan(self, layers: ActingLayers, bases: Mapping[str, AdaptedLayer]) -> FusionPlan:
        """Return the plan with one evaluation with all adapters and one without."""
        return same_at_every_step(layers, {}, weights=(1.0 + self.guidance, -self.guidance))


@dataclass(frozen=True)
class Switch(FusionMethod):
    """LoRA Switch: one adapter acts at a time, and the next one takes over after some steps.

    Source: Zhong et al., Multi-LoRA Composition for Image Generation (arXiv 2402.16843): at step t = 1, 2, ... adapter
    `floor(((t - 1) mod (k tau)) / tau) + 1` of k acts.

    Attributes:
        steps: number of steps for which one adapter acts (tau), at least 1.

    """

    steps: int = 5

    def plan(self, layers: ActingLayers, bases: Mapping[str, AdaptedLayer]) -> FusionPlan:
        """Return the plan in which the adapters take turns in their order."""
        alone = [of_adapter(layers, number) for number in adapter_numbers(layers)]
        return FusionPlan(lambda step: (alone[step.index // self.steps % len(alone)],), by_step=True)


@dataclass(frozen=True)
class Composite(FusionMethod):
    """LoRA Composite: the UNet is evaluated with each adapter alone, and the predictions are averaged.

    Source: Zhong et al. (arXiv 2402.16843): the guided predictions of the adapters are averaged, with equal weights.
    Guidance is linear, so averaging each prediction before guidance gives the same.
    """

    def plan(self, layers: ActingLayers, bases: Mapping[str, AdaptedLayer]) -> FusionPlan:
        """Return the plan with one evaluation for each adapter."""
        return same_at_every_step(*(of_adapter(layers, number) for number in adapter_numbers(layers)))
