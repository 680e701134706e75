"""One picture to paint, and painting many of them in as few passes as they allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bwlab.adapters.adapter import Adapter, Attached
from bwlab.adapters.scales import Scale
from bwlab.blocks.spec import BlockSpec
from bwlab.composition.attach import Timed
from bwlab.composition.schedule import Schedule
from bwlab.generation.control import Control
from bwlab.generation.sample import OnStep, generate
from bwlab.generation.start import Start

if TYPE_CHECKING:
    from PIL import Image

    from bwlab.formats.embedding_files import Embedding
    from bwlab.pipelines import Pipeline


@dataclass(frozen=True)
class Variant:
    """What makes a picture this one.

    Attributes:
        scales: of each adapter of the job.
        schedules: of each adapter of the job.
    """

    prompt: str
    seed: int
    steps: int
    cfg: float
    sampler: str
    scales: tuple[BlockSpec, ...] = ()
    schedules: tuple[Schedule, ...] = ()

    def pass_key(self) -> tuple[object, ...]:
        """Return what variants must share to be painted in one pass."""
        return self.steps, self.cfg, self.sampler, tuple(schedule.spans for schedule in self.schedules)


@dataclass(frozen=True, eq=False)
class Setting:
    """What all pictures of a job share.

    Attributes:
        adapters: in the order of the variants' scales.
        start: a picture to start from; None: noise.
        control: lines that say where things go; None: nothing does.
        embeddings: words that prompts may use.
        weighting: the library that reads weights in prompts; None: none.
    """

    adapters: tuple[Adapter, ...] = ()
    negative: str = ""
    start: Start | None = None
    control: Control | None = None
    embeddings: tuple[Embedding, ...] = ()
    weighting: str | None = None


def paint(
    pipe: Pipeline, variants: Sequence[Variant], setting: Setting, on_step: OnStep | None = None
) -> list[Image.Image]:
    """Return one picture for each variant.

    Args:
        pipe: the base.
        variants: those that differ in prompt, seed and scales only are painted side by side.
        setting: what they share.
        on_step: called with (sampling steps done, sampling steps in all, estimated by variants).
    """
    passes: dict[tuple[object, ...], list[int]] = {}
    for place, variant in enumerate(variants):
        passes.setdefault(variant.pass_key(), []).append(place)
    images: dict[int, Image.Image] = {}
    for places in passes.values():
        report = _share(on_step, len(images), len(places), len(variants))
        images |= zip(places, _one_pass(pipe, [variants[place] for place in places], setting, report), strict=True)
    return [images[place] for place in range(len(variants))]


def shared_scale(specs: Sequence[BlockSpec]) -> Scale:
    """Return one scale for several pictures: their common one, or for each module one number per picture."""
    if all(spec.values == specs[0].values for spec in specs):
        return specs[0]
    scales: dict[str, float | torch.Tensor] = {}
    for path in specs[0].values:
        numbers = [spec.values[path] for spec in specs]
        scales[path] = numbers[0] if len(set(numbers)) == 1 else torch.tensor(numbers)
    return scales


def _one_pass(
    pipe: Pipeline, variants: Sequence[Variant], setting: Setting, on_step: OnStep | None
) -> list[Image.Image]:
    one = variants[0]
    acting = [
        Timed(Attached(adapter, shared_scale([variant.scales[place] for variant in variants])), one.schedules[place])
        for place, adapter in enumerate(setting.adapters)
    ]
    return generate(
        pipe,
        [variant.prompt for variant in variants],
        [variant.seed for variant in variants],
        acting,
        steps=one.steps,
        cfg=one.cfg,
        sampler=one.sampler,
        negative=setting.negative,
        start=setting.start,
        control=setting.control,
        embeddings=setting.embeddings,
        weighting=setting.weighting,
        on_step=on_step,
    )


def _share(on_step: OnStep | None, before: int, count: int, whole: int) -> OnStep | None:
    """What a pass of `count` of all pictures calls, so that the whole counts from 0 to 1000 a picture."""
    if on_step is None or count == whole:
        return on_step
    return lambda done, total: on_step(1000 * before + round(1000 * count * done / total), 1000 * whole)
