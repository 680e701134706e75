"""Measured conflict: what each of two adapters loses beside the other in images that are generated in a few steps.

The scored images are few and unfinished; docs/analysis-in-a-base.md says how well their scores predict what full images
lose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import ScaledAdapter
from bwlab.base.models import denoiser_of, family_of
from bwlab.generation.sample import generate
from bwlab_analysis.activations.inputs import latents_of
from bwlab_analysis.activations.pair import Cost, MeasuredConflict
from bwlab_analysis.activations.passes import BASE, BOTH, A, B, random_name, rows_at_once
from bwlab_analysis.activations.random_adapters import random_adapters
from bwlab_analysis.fidelity.bootstrap import Array, interval, resampled_means
from bwlab_analysis.fidelity.clip import ClipModel, identity_margins, likeness_to_images
from bwlab_analysis.measures import IDENTITY, STYLE, Interval

if TYPE_CHECKING:
    from PIL.Image import Image

    from bwlab.base.architectures import Pipeline
    from bwlab.terminal import OnProgress

LIKENESS, LATENTS = "likeness", "latents"
SHARED_BY = 0.8
"""Share of an adapter's captions that must contain a tag for it to be one of the common tags."""

Scores: TypeAlias = Callable[[Sequence["Image"]], Sequence[float]]


@dataclass(frozen=True)
class RolloutSettings:
    """How images are generated to measure conflict.

    Attributes:
        prompts: the prompts.
        samples: smallest number of images of each composition; every prompt gets equally many.
        steps, cfg: as in `bwlab.generation.sample.generate`.
        draws: number of random adapters in the place of each adapter; each takes as many images as the adapter does.
        seed: seed of the first image and of the random adapters. Every image of a composition has its own seed, as
            images of one seed are alike whatever the prompt.

    """

    prompts: tuple[str, ...]
    samples: int = 8
    steps: int = 10
    cfg: float = 3.0
    draws: int = 1
    seed: int = 0

    @property
    def seeds(self) -> int:
        """The number of images for each prompt."""
        return math.ceil(self.samples / len(self.prompts))


@dataclass(frozen=True, eq=False)
class TrainedSubject:
    """The subject of an adapter's training, by which images are scored.

    Attributes:
        of: `"identity"`, `"style"` or `"likeness"`.
        scores: function that scores images by it; a higher score is better.

    """

    of: str
    scores: Scores


def learned_from(clip: ClipModel, images: Sequence[Image], of: str | None = None) -> TrainedSubject:
    """Return what training images share, as a scorer of generated images.

    Args:
        clip: the model. The scorer of the embedded base distinguishes identity from style; others score the likeness to
            the training images as a whole.
        images: the training images, one or more.
        of: `"identity"` or `"style"`; None: the part of the embeddings that is more alike among the images.

    """
    if not {IDENTITY, STYLE} <= clip.parts.keys():
        return TrainedSubject(LIKENESS, partial(_likeness, clip, images, ""))
    if of is None:
        of = max((IDENTITY, STYLE), key=lambda part: _alike(clip, images, part))
    if of == IDENTITY:
        return TrainedSubject(IDENTITY, lambda generated: identity_margins(clip, generated, images))
    return TrainedSubject(STYLE, partial(_likeness, clip, images, STYLE))


def _likeness(clip: ClipModel, images: Sequence[Image], part: str, generated: Sequence[Image]) -> list[float]:
    return likeness_to_images(clip, generated, images, part)


def _alike(clip: ClipModel, images: Sequence[Image], part: str) -> float:
    """Return the mean cosine of two of the images, -1..1; 1 for a single image."""
    embeddings = clip.embed_images(images, part)
    count = len(embeddings)
    pairs = (embeddings @ embeddings.T).sum() - count
    return float(pairs) / (count * (count - 1)) if count > 1 else 1.0


def measure_rollouts(
    pipe: Pipeline,
    a: Adapter,
    b: Adapter,
    learned: Mapping[str, TrainedSubject],
    settings: RolloutSettings,
    on_step: OnProgress | None = None,
) -> MeasuredConflict:
    """Return what two adapters lose beside each other in images that are generated for the same prompts and seeds.

    Every image of a composition starts from the noise of the same image of the others. Intervals (95 %, bootstrap) are
    over prompts and seeds.

    Args:
        pipe: the base.
        a, b: the adapters.
        learned: what `"a"` and `"b"` were trained on; empty if there is no scorer: then the change of the images'
            latents is measured instead of scores.
        settings: prompts, seeds and steps.
        on_step: called with the numbers of finished sampling steps and of all.

    """
    drawn = {A: random_adapters(a, denoiser_of(pipe), settings.draws, settings.seed + 1)}
    drawn[B] = random_adapters(b, denoiser_of(pipe), settings.draws, settings.seed + 101)
    on: dict[str, tuple[Adapter, ...]] = {BASE: (), A: (a,), B: (b,), BOTH: (a, b)}
    beside: dict[str, list[str]] = {}  # adapter -> its compositions with random ones
    for name, own, replaced in ((A, a, B), (B, b, A)):
        beside[name] = [random_name(replaced, draw, alone=False) for draw in range(len(drawn[replaced]))]
        on |= {composition: (own, adapter) for composition, adapter in zip(beside[name], drawn[replaced], strict=True)}
    images = _generated(pipe, on, settings, on_step)
    costs = [_cost(name, learned[name], images, beside[name], settings) for name in (A, B) if name in learned]
    if not learned:
        latents = {name: latents_of(pipe, shown).flatten(1).double().cpu() for name, shown in images.items()}
        costs = [_change(name, latents, beside[name], settings) for name in (A, B)]
    shown = {name: tuple(images[name]) for name in (BASE, A, B, BOTH)}
    return MeasuredConflict(settings.prompts, settings.seeds, settings.steps, settings.cfg, tuple(costs), shown)


def _generated(
    pipe: Pipeline, on: Mapping[str, Sequence[Adapter]], settings: RolloutSettings, on_step: OnProgress | None
) -> dict[str, list[Image]]:
    """Return the images of every composition, prompt by prompt."""
    prompts = [prompt for prompt in settings.prompts for _ in range(settings.seeds)]
    seeds = range(settings.seed, settings.seed + len(prompts))
    side = family_of(pipe).base_side(pipe) // int(pipe.vae_scale_factor)
    rows = rows_at_once(pipe, torch.empty(1, 1, side, side))
    images: dict[str, list[Image]] = {}
    for place, (name, adapters) in enumerate(on.items()):
        images[name] = generate(
            pipe,
            prompts,
            seeds,
            [ScaledAdapter(adapter) for adapter in adapters],
            steps=settings.steps,
            cfg=settings.cfg,
            batch_size=max(1, rows // (2 if settings.cfg > 1 else 1)),
            fold=True,
            on_step=on_step and partial(_report, on_step, place, len(on)),
        )
    return images


def _report(on_step: OnProgress, place: int, compositions: int, done: int, steps: int) -> None:
    """Report the finished steps of all compositions, of which `place` are finished."""
    on_step(place * steps + done, compositions * steps)


def _cost(
    name: str,
    learned: TrainedSubject,
    images: Mapping[str, Sequence[Image]],
    random: Sequence[str],
    settings: RolloutSettings,
) -> Cost:
    compositions = (BASE, name, BOTH, *random)
    # Score all images in one call, because every call embeds the training images again.
    scores = learned.scores([image for composition in compositions for image in images[composition]])
    base, alone, both, *others = np.asarray(scores, np.float64).reshape(len(compositions), -1, settings.seeds)
    lost = share_lost(base, alone, both)
    beside_random = share_lost(base, alone, np.mean(others, 0)) if random else None
    return Cost(name, learned.of, float(base.mean()), float(alone.mean()), float(both.mean()), lost, beside_random)


def share_lost(base: Array, alone: Array, both: Array) -> Interval | None:
    """Return `mean(alone - both) / mean(alone - base)` with its interval over prompts and seeds.

    Args:
        base, alone, both: `(prompts, seeds)` scores of the images by the base, by an adapter alone and by two.

    Returns:
        None if the adapter alone does not raise the score: if the interval of `mean(alone - base)` is not above 0.

    """
    gains = resampled_means(alone - base)
    if not interval(float((alone - base).mean()), gains).low > 0:
        return None
    # Both tables have one shape, so the same prompts and seeds are drawn for both.
    shares = resampled_means(alone - both) / np.where(gains > 0, gains, np.nan)
    return interval(float((alone - both).mean() / (alone - base).mean()), shares[~np.isnan(shares)])


def _change(name: str, latents: Mapping[str, torch.Tensor], random: Sequence[str], settings: RolloutSettings) -> Cost:
    def changed(composition: str) -> Array:
        cosines = torch.cosine_similarity(latents[name], latents[composition], dim=1)
        return np.asarray(1 - cosines, np.float64).reshape(-1, settings.seeds)

    def with_interval(changes: Array) -> Interval:
        return interval(float(changes.mean()), resampled_means(changes))

    beside_random = with_interval(np.mean([changed(composition) for composition in random], 0)) if random else None
    return Cost(name, LATENTS, None, None, None, with_interval(changed(BOTH)), beside_random)


def shared_prompt(captions: Sequence[Sequence[str]]) -> str | None:
    """Return the tags that most captions of each adapter have in common, in the order in which captions have them.

    >>> shared_prompt([["flat, fox, white", "noto, fox, white"], ["ink, cat, white", "ink, rose, white"]])
    'ink, fox, white'

    Args:
        captions: the captions of each adapter's training images.

    Returns:
        None if the captions of an adapter have no tag in common.

    """
    places: dict[str, list[float]] = {}
    for texts in captions:
        tags = [[tag.strip() for tag in text.split(",") if tag.strip()] for text in texts]
        positions: dict[str, list[float]] = {}
        for row in tags:
            for place, tag in enumerate(dict.fromkeys(row)):
                positions.setdefault(tag, []).append(place / len(row))
        common = {tag: where for tag, where in positions.items() if len(where) >= SHARED_BY * len(texts)}
        if not common:
            return None
        for tag, where in common.items():
            places.setdefault(tag, []).append(float(np.mean(where)))
    return ", ".join(sorted(places, key=lambda tag: float(np.mean(places[tag]))))
