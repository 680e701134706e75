"""The encoded examples of a run, and the random batches that are sampled from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bwlab.base.conditioning import SizeCondition, size_conditions
from bwlab.base.latents import Posterior
from bwlab.dataset.examples import Example, dataset_hash, order_hash
from bwlab.dataset.latents import EncodedImage
from bwlab.dataset.order import BatchSlot, Order, generator_for, new_order
from bwlab.images import Size


@dataclass(frozen=True)
class SampledBatch:
    """One micro-batch, on the CPU.

    Attributes:
        indices: indices of its examples.
        means: `(batch, channels, h, w)` posterior means, scaled as the UNet expects them.
        deviations: standard deviations, the same shape and scale.
        captions: caption of each example, as it is in this batch.
        weights: `(batch,)` weight of each example's loss.
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
    """One example of a micro-batch: a crop of a posterior, a caption and a size condition."""

    crop: Posterior
    caption: str
    size: SizeCondition


@dataclass(frozen=True)
class TrainingSet:
    """Encoded examples, in memory.

    Attributes:
        examples: the examples.
        images: the encoded image of each example.
        factor: pixels per latent, in each direction.
        prior_weight: weight of the loss of regularisation examples.

    """

    examples: tuple[Example, ...]
    images: tuple[EncodedImage, ...]
    factor: int
    prior_weight: float = 1.0

    @cached_property
    def order(self) -> Order:
        """The examples of each micro-batch."""
        return new_order(
            [example.repeats for example in self.examples],
            [image.frame.target for image in self.images],
            [example.regularisation for example in self.examples],
        )

    def sample(self, batch: int, size: int, seed: int) -> SampledBatch:
        """Return micro-batch number `batch` of `size` examples; a function of its arguments alone."""
        slots = self.order.slots(batch, size, seed)
        sampled = [
            self._sample_example(slot, generator_for(seed, "example", batch * size + row))
            for row, slot in enumerate(slots)
        ]
        kinds = [self.examples[slot.example].regularisation for slot in slots]
        return SampledBatch(
            tuple(slot.example for slot in slots),
            torch.stack([example.crop.mean for example in sampled]),
            torch.stack([example.crop.deviation for example in sampled]),
            tuple(example.caption for example in sampled),
            torch.tensor([self.prior_weight if kind else 1.0 for kind in kinds]),
            size_conditions([example.size for example in sampled]),
        )

    def _sample_example(self, slot: BatchSlot, generator: torch.Generator) -> SampledExample:
        """Return an example that is mirrored and cropped at random, with a random variant of its caption."""
        example, image = self.examples[slot.example], self.images[slot.example]
        mirrored, row, column = torch.rand(3, generator=generator).tolist()
        posterior = image.mirrored if image.mirrored is not None and mirrored < 0.5 else image.plain
        frame, factor = image.frame, self.factor
        height, width = frame.target.height // factor, frame.target.width // factor
        top = int(row * (posterior.mean.shape[1] - height + 1))
        left = int(column * (posterior.mean.shape[2] - width + 1))
        rows, columns = slice(top, top + height), slice(left, left + width)
        crop = Posterior(posterior.mean[:, rows, columns], posterior.deviation[:, rows, columns])
        corner = frame.corner[0] + top * factor, frame.corner[1] + left * factor
        size = SizeCondition(height_width(frame.original), corner, height_width(frame.target))
        return SampledExample(crop, example.subset.caption_rule.sample(example.caption, slot.epoch, generator), size)

    def all_captions(self) -> frozenset[str] | None:
        """Return every caption that `sample` can return; None if there may be very many."""
        all_captions: set[str] = set()
        for example in self.examples:
            captions = example.subset.caption_rule.all_samples(example.caption)
            if captions is None:
                return None
            all_captions |= captions
        return frozenset(all_captions)

    def distinct_captions(self) -> list[str]:
        """Return the captions of new examples without duplicates, in the order of the examples."""
        return list(dict.fromkeys(example.caption for example in self.examples if not example.regularisation))

    def resume_invariants(self) -> dict[str, str]:
        """Return what must stay the same for a run to be resumed, by name."""
        sizes = sorted({image.frame.target for image in self.images})
        return {
            "resolution": ", ".join(str(size) for size in sizes),
            "the data": dataset_hash(self.examples),
            "the order of the images, which is that of their names,": order_hash(self.examples),
            "regularisation.weight": str(self.prior_weight),
        }


def height_width(size: Size) -> tuple[int, int]:
    """Return a size as (height, width)."""
    return size.height, size.width
