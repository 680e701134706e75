"""Fidelity of compositions: images are generated with fixed prompts and seeds, and scored beside controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

import numpy as np

from bwlab.adapters.adapter import Adapter
from bwlab.errors import BwlabError
from bwlab.terminal import counted
from bwlab_analysis.fidelity.bootstrap import bootstrap, harmonic_mean
from bwlab_analysis.fidelity.conditions import BASE, BOTH, Condition
from bwlab_analysis.measures import SCORER_KINDS, FailedParts, FidelityScorer, Interval, MeasureError, attempted

if TYPE_CHECKING:
    from PIL.Image import Image

    from bwlab.base.architectures import Pipeline


OnCondition: TypeAlias = Callable[[int, int, str], None]
Score: TypeAlias = Callable[[Sequence["Image"], Sequence[object]], list[float]]

Returned = TypeVar("Returned")

HARMONIC = "harmonic"
"""The harmonic mean of an image's scores."""


@dataclass(frozen=True, eq=False)
class References:
    """The reference images with which generated images are compared.

    Attributes:
        identity: images of the identity.
        style: images in the style.

    """

    identity: tuple[Image, ...]
    style: tuple[Image, ...]

    def __post_init__(self) -> None:
        for name, images in (("identity", self.identity), ("style", self.style)):
            if not images:
                raise BwlabError(f"fidelity of the {name}", "no reference images", "Give a folder with images")


@dataclass(frozen=True)
class Sampling:
    """The settings for generating images.

    Attributes:
        prompts: the prompts; each is generated with each seed.
        seeds: seeds of the noise.
        steps, cfg: as in `bwlab.generation.sample.generate`.

    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int = 25
    cfg: float = 7.0

    def rows(self) -> tuple[list[str], list[int]]:
        """Return the prompt and the seed of each image, prompt by prompt."""
        return (
            [prompt for prompt in self.prompts for _ in self.seeds],
            [seed for _ in self.prompts for seed in self.seeds],
        )


@dataclass(frozen=True, eq=False)
class ConditionScores:
    """The scores of one composition.

    Attributes:
        condition: the composition; None for controls.
        name: name in tables.
        scores: scorer (and `"harmonic"`) -> mean with its interval over prompts and seeds.
        values: scorer -> each image's score, prompt by prompt.
        images: the images.

    """

    condition: Condition | None
    name: str
    scores: Mapping[str, Interval]
    values: Mapping[str, tuple[float, ...]]
    images: tuple[Image, ...]


class Judge:
    """A judge that scores images with every scorer, against references and prompts.

    Args:
        scorers: scorers of all kinds; the first scorers of each kind make up the harmonic mean.
        references: reference images to compare with.

    """

    def __init__(self, scorers: Sequence[FidelityScorer], references: References) -> None:
        missing = [kind for kind in SCORER_KINDS if kind not in {scorer.kind for scorer in scorers}]
        if missing:
            raise BwlabError("scoring fidelity", f"no scorer of {', '.join(missing)}", "Give a CLIP model with --clip")
        self.scorers, self.references = tuple(scorers), references
        self._failures: dict[str, str] = {}
        self._load: dict[str, Score] = {scorer.name: self._loaded(scorer) for scorer in scorers}

    @property
    def errors(self) -> tuple[MeasureError, ...]:
        """The scorers of plugins that failed; they are not called again."""
        owners = {scorer.name: scorer.owner for scorer in self.scorers}
        return tuple(MeasureError(owners[name], name, "all", reason) for name, reason in self._failures.items())

    @property
    def leading(self) -> tuple[str, ...]:
        """Names of the scorers in the harmonic mean: the first of identity, of style and of text."""
        return tuple(next(scorer.name for scorer in self.scorers if scorer.kind == kind) for kind in SCORER_KINDS)

    def values(self, images: Sequence[Image], prompts: Sequence[str]) -> dict[str, tuple[float, ...]]:
        """Return the scores of each image by each scorer that did not fail, and their harmonic mean."""
        against: dict[str, Sequence[object]] = {
            "identity": self.references.identity,
            "style": self.references.style,
            "text": prompts,
        }
        values = {}
        for scorer in self.scorers:
            scores = self._scores(scorer, images, against[scorer.kind])
            if scores is not None:
                values[scorer.name] = scores
        triples = zip(*(values[name] for name in self.leading), strict=True)
        return {**values, HARMONIC: tuple(harmonic_mean(triple) for triple in triples)}

    def _loaded(self, scorer: FidelityScorer) -> Score:
        return scorer.load() if not scorer.owner else self._guarded(scorer, scorer.load) or _no_scores

    def _scores(
        self, scorer: FidelityScorer, images: Sequence[Image], against: Sequence[object]
    ) -> tuple[float, ...] | None:
        """Return the scores of images by one scorer; None if it is a plugin's and failed now or before."""
        if not scorer.owner:
            return tuple(self._load[scorer.name](images, against))
        if scorer.name in self._failures:
            return None
        scores = self._guarded(scorer, lambda: [float(score) for score in self._load[scorer.name](images, against)])
        if scores is None:
            return None
        if len(scores) != len(images):
            self._failures[scorer.name] = (
                f"it returned {counted(len(scores), 'score')} for {counted(len(images), 'image')}"
            )
        elif not np.isfinite(scores).all():
            self._failures[scorer.name] = "it returned NaN or infinity"
        return None if scorer.name in self._failures else tuple(scores)

    def _guarded(self, scorer: FidelityScorer, function: Callable[[], Returned]) -> Returned | None:
        returned = attempted(function)
        if isinstance(returned, FailedParts):
            self._failures[scorer.name] = returned.error
            return None
        return cast("Returned", returned)


def _no_scores(images: Sequence[Image], against: Sequence[object]) -> list[float]:
    """Return no scores, in place of a scorer that could not be loaded."""
    return []


def sample_condition(
    pipe: Pipeline, identity: Adapter, style: Adapter, condition: Condition, sampling: Sampling
) -> list[Image]:
    """Return the images of one composition, prompt by prompt; the base is not changed."""
    from bwlab.generation.sample import generate

    prompts, seeds = sampling.rows()
    uses = condition.uses(identity, style)
    return generate(pipe, prompts, seeds, uses, steps=sampling.steps, cfg=sampling.cfg, fold=True)


def score_condition(
    pipe: Pipeline, identity: Adapter, style: Adapter, condition: Condition, sampling: Sampling, judge: Judge
) -> ConditionScores:
    """Return the scores of one composition; the base is not changed."""
    images, prompts = sample_condition(pipe, identity, style, condition, sampling), sampling.rows()[0]
    return scored(condition.name, images, prompts, len(sampling.seeds), judge, condition)


def scored(
    name: str,
    images: Sequence[Image],
    prompts: Sequence[str],
    seeds: int,
    judge: Judge,
    condition: Condition | None = None,
) -> ConditionScores:
    """Return the scores of images, of which `seeds` adjacent images belong to each prompt."""
    values = judge.values(images, prompts)
    scores = {key: bootstrap(np.reshape(numbers, (-1, seeds))) for key, numbers in values.items()}
    return ConditionScores(condition, name, scores, values, tuple(images))


def controls(judge: Judge, prompts: Sequence[str], seed: int = 0) -> list[ConditionScores]:
    """Return the scores of images that were not generated, to compare with.

    These are the references themselves (each is compared with all references, including itself, so this is an upper
    bound), and uniform noise. Their text score compares them with the prompts in turn.
    """
    from PIL import Image

    references = judge.references
    size = references.identity[0].size
    rng = np.random.default_rng(seed)
    noise = [Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)) for _ in range(8)]
    named = {
        "identity references": list(references.identity),
        "style references": list(references.style),
        "uniform noise": noise,
    }
    return [
        scored(name, images, [prompts[index % len(prompts)] for index in range(len(images))], 1, judge)
        for name, images in named.items()
    ]


def measure_fidelity(
    pipe: Pipeline,
    identity: Adapter,
    style: Adapter,
    conditions: Sequence[Condition],
    sampling: Sampling,
    judge: Judge,
    on_condition: OnCondition | None = None,
) -> list[ConditionScores]:
    """Return the scores of each composition, all at the same prompts and seeds.

    Args:
        pipe: the base.
        identity, style: the adapters.
        conditions: the compositions.
        sampling: prompts, seeds, steps.
        judge: the scorers.
        on_condition: called before each composition with (done, all, its name).

    """
    scores = []
    for index, condition in enumerate(conditions):
        if on_condition is not None:
            on_condition(index, len(conditions), condition.name)
        scores.append(score_condition(pipe, identity, style, condition, sampling, judge))
    return scores


@dataclass(frozen=True)
class BlockProfile:
    """The effect of one block of one adapter on each score.

    Attributes:
        adapter: `"identity"` or `"style"`.
        block: name of the block.
        knocked_in: score with this block alone, minus the score of the base.
        knocked_out: score of both adapters, minus the score of both without this block.

    """

    adapter: str
    block: str
    knocked_in: Mapping[str, Interval]
    knocked_out: Mapping[str, Interval]


def block_profiles(scores: Sequence[ConditionScores], seeds: int) -> list[BlockProfile]:
    """Return the profile of each block that was knocked in and out among `scores`, with differences paired by image."""
    named = {scored.name: scored for scored in scores}
    knocked = {
        (*scored.condition.block, scored.condition.knocked): scored
        for scored in scores
        if scored.condition is not None and scored.condition.block is not None
    }
    return [
        BlockProfile(
            adapter,
            block,
            difference(alone, named[BASE], seeds),
            difference(named[BOTH], knocked[adapter, block, "out"], seeds),
        )
        for (adapter, block, how), alone in knocked.items()
        if how == "in"
    ]


def difference(first: ConditionScores, second: ConditionScores, seeds: int) -> dict[str, Interval]:
    """Return the mean difference of each score, image by image, with its interval."""
    return {
        name: bootstrap(np.reshape(np.subtract(values, second.values[name]), (-1, seeds)))
        for name, values in first.values.items()
        if name in second.values
    }
