"""The examples of a run, encoded and ready to be drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bwlab.base.conditioning import SizeCondition, size_conditions
from bwlab.base.latents import Posterior
from bwlab.dataset.examples import Example, dataset_hash
from bwlab.dataset.latents import EncodedImage
from bwlab.dataset.order import BatchSlot, Order, generator_for, new_order
from bwlab.images import Size


@dataclass(frozen=True)
class SampledBatch:
    """One micro-batch, on the CPU.

    Attributes:
        indices: of its examples.
        means: `(batch, channels, h, w)` posterior means, scaled as the UNet expects them.
        deviations: standard deviations, the same shape and scale.
        captions: of its examples, as they are shown.
        weights: `(batch,)` of their losses.
        sizes: `(batch, 6)` time ids, for SDXL only.

    """

    indices: tuple[int, ...]
    means: Tensor
    deviations: Tensor
    captions: tuple[str, ...]
    weights: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class SampledExample:
    """One example of a micro-batch: its part of a posterior, its caption and its size condition."""

    part: Posterior
    caption: str
    size: SizeCondition


@dataclass(frozen=True)
class TrainingSet:
    """Encoded examples, in memory.

    Attributes:
        examples: the files they come from.
        pictures: of each example.
        factor: pixels a latent, in each direction.
        prior_weight: of the loss of regularisation examples.

    """

    examples: tuple[Example, ...]
    pictures: tuple[EncodedImage, ...]
    factor: int
    prior_weight: float = 1.0

    @cached_property
    def order(self) -> Order:
        """Which examples each micro-batch has."""
        return new_order(
            [example.repeats for example in self.examples],
            [picture.frame.target for picture in self.pictures],
            [example.regularisation for example in self.examples],
        )

    def draw(self, batch: int, size: int, seed: int) -> SampledBatch:
        """Return micro-batch number `batch` of `size` examples; a function of its arguments alone."""
        places = self.order.places(batch, size, seed)
        shown = [
            self._shown(place, generator_for(seed, "example", batch * size + row)) for row, place in enumerate(places)
        ]
        kinds = [self.examples[place.example].regularisation for place in places]
        return SampledBatch(
            tuple(place.example for place in places),
            torch.stack([one.part.mean for one in shown]),
            torch.stack([one.part.deviation for one in shown]),
            tuple(one.caption for one in shown),
            torch.tensor([self.prior_weight if kind else 1.0 for kind in kinds]),
            size_conditions([one.size for one in shown]),
        )

    def _shown(self, place: BatchSlot, generator: torch.Generator) -> SampledExample:
        example, picture = self.examples[place.example], self.pictures[place.example]
        mirrored, row, column = torch.rand(3, generator=generator).tolist()
        posterior = picture.mirrored if picture.mirrored is not None and mirrored < 0.5 else picture.plain
        frame, factor = picture.frame, self.factor
        height, width = frame.target.height // factor, frame.target.width // factor
        top = int(row * (posterior.mean.shape[1] - height + 1))
        left = int(column * (posterior.mean.shape[2] - width + 1))
        rows, columns = slice(top, top + height), slice(left, left + width)
        part = Posterior(posterior.mean[:, rows, columns], posterior.deviation[:, rows, columns])
        corner = frame.corner[0] + top * factor, frame.corner[1] + left * factor
        size = SizeCondition(turned(frame.original), corner, turned(frame.target))
        return SampledExample(part, example.subset.rule.shown(example.caption, place.epoch, generator), size)

    def static_captions(self) -> frozenset[str] | None:
        """Return every caption that `draw` can return, None if there is no end to them."""
        found: set[str] = set()
        for example in self.examples:
            captions = example.subset.rule.all_samples(example.caption)
            if captions is None:
                return None
            found |= captions
        return frozenset(found)

    def resume_invariants(self) -> dict[str, str]:
        """Return what must stay the same for a run to be resumed, by name."""
        frames = sorted({picture.frame.target for picture in self.pictures})
        return {
            "resolution": ", ".join(str(size) for size in frames),
            "the data": dataset_hash(self.examples),
            "regularisation.weight": str(self.prior_weight),
        }

    def distinct_captions(self) -> list[str]:
        """Return the captions of what is to be learned without doubles, in the order of the examples."""
        return list(dict.fromkeys(example.caption for example in self.examples if not example.regularisation))


def turned(size: Size) -> tuple[int, int]:
    """Return a size as (height, width)."""
    return size.height, size.width
