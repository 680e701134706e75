"""The interface of fusion methods: which adapter layers act at which sampling step, and how they are combined."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bwlab.adapters.attach import ActingLayers, Combine, ScaledLayer
from bwlab.adapters.layer import AdaptedLayer, dense_weight


@dataclass(frozen=True)
class SamplingStep:
    """A step of the sampling: number `index` of `count`, from 0, counted from pure noise on."""

    index: int
    count: int

    @property
    def fraction(self) -> float:
        """The position in the sampling, 0 <= fraction < 1."""
        return self.index / self.count


@dataclass(frozen=True, eq=False)
class FusionPlan:
    """How the adapters act while their scales do not change.

    Attributes:
        passes: function from a step to the adapter layers of each evaluation of the UNet, at least one; an evaluation
            without layers is the base's.
        combine: function from (path, output of the base layer, each adapter's part of that layer, scaled) to the tensor
            that is added to the output; it is called where at least two adapters act. None: the parts are added.
        by_step: whether `passes` depends on the step.
        weights: factor of the prediction of each evaluation, in their order; the weighted predictions are added. None:
            the predictions are averaged.

    """

    passes: Callable[[SamplingStep], Sequence[ActingLayers]]
    combine: Combine | None = None
    by_step: bool = False
    weights: tuple[float, ...] | None = None


def same_at_every_step(
    *passes: ActingLayers, combine: Combine | None = None, weights: tuple[float, ...] | None = None
) -> FusionPlan:
    """Return a plan whose evaluations of the UNet have the same adapter layers at every step."""
    return FusionPlan(lambda step: passes, combine, weights=weights)


class FusionMethod(ABC):
    """A way in which several adapters act together; its options are the fields of a frozen dataclass.

    Attributes:
        mixes_samples: whether the samples of a batch may have different adapters (scales per sample that are 0 for some
            samples only). Other methods get batches in which every sample has the same adapters.

    """

    mixes_samples: ClassVar[bool] = False

    @abstractmethod
    def plan(self, layers: ActingLayers, bases: Mapping[str, AdaptedLayer]) -> FusionPlan:
        """Return how at least two adapters act together while their scales do not change.

        Args:
            layers: the adapter layers with their scales at each path of the UNet. Adapters are numbered from 0 in the
                order in which they were given, without those whose scale is 0; layers with scale 0 are left out.
            bases: the frozen layers of the UNet by path; do not change them.

        Raises:
            BwlabError: the method does not fit the model or the adapters.

        """


def adapter_numbers(layers: ActingLayers) -> list[int]:
    """Return the numbers of the adapters that act, in order."""
    return sorted({scaled.adapter for own in layers.values() for scaled in own})


def of_adapter(layers: ActingLayers, number: int) -> dict[str, list[ScaledLayer]]:
    """Return the layers of one adapter alone."""
    own = {path: [scaled for scaled in each if scaled.adapter == number] for path, each in layers.items()}
    return {path: each for path, each in own.items() if each}


def delta_of(scaled: ScaledLayer, base: AdaptedLayer) -> Tensor:
    """Return the change of a base layer's weight at scale 1, in the weight's shape, in float32."""
    with torch.no_grad():
        weight = dense_weight(base).detach().to(scaled.layer.weight_dtype()) if scaled.layer.needs_base_weight else None
        return scaled.layer.delta(weight).detach().float()
