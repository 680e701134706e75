"""The search for the best composition of two adapters: each proposal is generated and scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bwlab.blocks.scheme import BlockScheme
from bwlab.errors import BwlabError
from bwlab_analysis.activations.batched_denoiser import TEXT
from bwlab_analysis.activations.interaction import interaction
from bwlab_analysis.activations.loaded_base import LoadedBase, choose_inputs
from bwlab_analysis.fidelity.bootstrap import Array, harmonic_mean, interval, resampled_means
from bwlab_analysis.fidelity.conditions import Condition, four_conditions
from bwlab_analysis.fidelity.scores import (
    ConditionScores,
    Judge,
    OnCondition,
    Sampling,
    measure_fidelity,
    score_condition,
)
from bwlab_analysis.measures import IDENTITY, STYLE, Interval

TURNED_DOWN = (0.0, 0.5)
# Scales of the whole identity and the whole style adapter: what people try by hand first.
OVERALL = ((1.0, 0.5), (0.5, 1.0), (1.0, 0.75), (0.75, 1.0))

LATENTS = 8
NAMES = {"a": "identity", "b": "style"}

WHOLE = "both whole"
"""The composition that every search begins with."""


class NothingGained(BwlabError):
    """An adapter alone scores no better than the base by its own score, so there is no gain to retain."""


@dataclass(frozen=True)
class PairScales:
    """A block scale for each block of both adapters, as pairs so that compositions can be compared."""

    identity: tuple[tuple[str, float], ...]
    style: tuple[tuple[str, float], ...]

    def scales(self, adapter: str) -> dict[str, float]:
        """Return the scale of each block of an adapter: `"identity"` or `"style"`."""
        return dict(self.identity if adapter == IDENTITY else self.style)

    def with_scale(self, adapter: str, block: str, scale: float) -> PairScales:
        """Return the composition with another scale in one block of one adapter."""
        changed = tuple((name, scale if name == block else old) for name, old in self.scales(adapter).items())
        return PairScales(changed, self.style) if adapter == IDENTITY else PairScales(self.identity, changed)

    def times(self, identity: float, style: float) -> PairScales:
        """Return the composition with every scale of each adapter multiplied by a number."""
        return PairScales(
            tuple((block, scale * identity) for block, scale in self.identity),
            tuple((block, scale * style) for block, scale in self.style),
        )

    def spec(self, adapter: str) -> str:
        """Return the scales of an adapter as a block spec, such as `"in0=0, *=1"`."""
        scales = self.scales(adapter)
        common = max(set(scales.values()), key=list(scales.values()).count)
        named = [f"{block}={scale:g}" for block, scale in scales.items() if scale != common]
        return ", ".join([*named, f"*={common:g}"])

    def condition(self) -> Condition:
        """Return the scales as a composition to be generated."""
        name = f"identity {self.spec(IDENTITY)} + style {self.spec(STYLE)}"
        return Condition(name, {**self.scales(IDENTITY), "*": 1.0}, {**self.scales(STYLE), "*": 1.0})


@dataclass(frozen=True)
class Retention:
    """The shares that a composition retains of each adapter's own gain over the base, and of the text score.

    Attributes:
        identity, style: `(score - base) / (alone - base)`; 1: as with that adapter alone, 0: as without it.
        text: the text score as a share of the base's.

    """

    identity: float
    style: float
    text: float

    @property
    def harmonic_mean(self) -> float:
        """The harmonic mean of the three, each counted as at most 1."""
        return harmonic_mean([min(1.0, share) for share in (self.identity, self.style, self.text)])


@dataclass(frozen=True, eq=False)
class Scored:
    """A composition that was generated and scored.

    Attributes:
        composition: the composition that was tried.
        reason: the reason why it was proposed.
        retention: the shares that it retains.
        scores: its scores and images.

    """

    composition: PairScales
    reason: str
    retention: Retention
    scores: ConditionScores


@dataclass(frozen=True, eq=False)
class Trial(Scored):
    """A composition among all compositions that were tried.

    Attributes:
        retained: the harmonic mean of its retention, with the interval over prompts and seeds.
        behind_best: its distance to the best trial's, at the same prompts and seeds; 0 for the best itself.

    """

    retained: Interval
    behind_best: Interval

    @property
    def tied(self) -> bool:
        """Whether its distance to the best trial is within the noise, so that the interval reaches 0."""
        return self.behind_best.low <= 0


@dataclass(frozen=True, eq=False)
class Recommendation:
    """The result of a search.

    Attributes:
        trials: the compositions that were tried, the best first.
        known: scores and images of the base and of each adapter alone.

    """

    trials: tuple[Trial, ...]
    known: tuple[ConditionScores, ...]


@dataclass(frozen=True)
class WeightedBlock:
    """A block of an adapter with its blame: the greater the weight, the sooner the block is turned down."""

    adapter: str
    block: str
    weight: float


@dataclass(frozen=True, eq=False)
class Search:
    """The scoring of compositions.

    Attributes:
        score: function that generates and scores a composition.
        base, identity, style: scores of the base and of each adapter alone.
        leading: names of the scorers of identity, style and text.
        seeds: number of images of each prompt; images of one prompt are adjacent.

    """

    score: Callable[[Condition], ConditionScores]
    base: ConditionScores
    identity: ConditionScores
    style: ConditionScores
    leading: tuple[str, ...]
    seeds: int

    def retention(self, scores: ConditionScores) -> Retention:
        """Return the shares that a composition retains; NothingGained if an adapter scores no better than the base."""
        identity, style, text = self.leading
        whole = scores.scores[text].mean / self.base.scores[text].mean if self.base.scores[text].mean > 0 else 1.0
        return Retention(
            self._share(scores, self.identity, identity, IDENTITY), self._share(scores, self.style, style, STYLE), whole
        )

    def _share(self, scores: ConditionScores, alone: ConditionScores, name: str, adapter: str) -> float:
        base = self.base.scores[name].mean
        gain = alone.scores[name].mean - base
        if gain <= 0:
            found = f"{name} is {alone.scores[name].mean:.3f} with it alone and {base:.3f} without any adapter"
            fix = (
                "Give reference images and prompts of the adapter's subject; if they are, generate better images "
                "(--steps) or more of them (--seeds)"
            )
            raise NothingGained(f"what a composition retains of the {adapter} adapter", found, fix)
        return (scores.scores[name].mean - base) / gain

    def resampled(self, scores: ConditionScores) -> Array:
        """Return harmonic means of the retention `(RESAMPLES,)`; prompts and seeds are resampled alike for all scores.

        If an adapter gains nothing in a resample, a composition that scores no worse than it alone retains it.
        """
        identity, style, text = self.leading
        shares = [
            self._resampled_share(scores, self.identity, identity),
            self._resampled_share(scores, self.style, style),
            _shares(self._means(scores, text), self._means(self.base, text)),
        ]
        return np.array([harmonic_mean(three) for three in np.minimum(np.transpose(shares), 1)])

    def _resampled_share(self, scores: ConditionScores, alone: ConditionScores, name: str) -> Array:
        base = self._means(self.base, name)
        return _shares(self._means(scores, name) - base, self._means(alone, name) - base)

    def _means(self, scores: ConditionScores, name: str) -> Array:
        return resampled_means(np.reshape(scores.values[name], (-1, self.seeds)))


def _shares(parts: Array, wholes: Array) -> Array:
    """Return parts as shares of wholes; for a whole that is not above 0, all or nothing."""
    gains = wholes > 0
    return np.where(gains, parts / np.where(gains, wholes, 1), parts >= wholes)


def search_scales(
    search: Search,
    scheme: BlockScheme,
    blocks: Mapping[str, Sequence[str]],
    blame: Sequence[WeightedBlock],
    budget: int,
) -> list[Trial]:
    """Return the compositions that were tried, the best first.

    Both whole adapters come first, then one of them at a lower scale overall. Then the style acts only in single parts
    of the scheme (arXiv 2403.07500, section 4), with its layers in text encoders unchanged. Then single blamed blocks
    are turned down, the worst first. The rest of the budget goes to the best composition so far, with one more block
    turned down or up again.

    Args:
        search: the scoring of compositions.
        scheme: block scheme of the base, for its parts.
        blocks: the blocks that the adapters `"identity"` and `"style"` change.
        blame: blocks to turn down, from conflict measures or knock-outs.
        budget: number of compositions to try, at least 1.

    """
    if budget < 1:
        raise BwlabError(f"--budget {budget}", "no composition would be tried", "Give 1 or more")
    start = PairScales(
        tuple((block, 1.0) for block in blocks[IDENTITY]), tuple((block, 1.0) for block in blocks[STYLE])
    )
    worst = sorted(blame, key=lambda block: -block.weight)
    trials: dict[PairScales, Scored] = {}

    def attempt(composition: PairScales, reason: str) -> None:
        if composition not in trials and len(trials) < budget:
            scores = search.score(composition.condition())
            trials[composition] = Scored(composition, reason, search.retention(scores), scores)

    for composition, reason in _proposals(start, scheme, worst):
        # Half of the budget is left for compositions that build on the first trials.
        if len(trials) < max(1, budget - budget // 2):
            attempt(composition, reason)
    while len(trials) < budget:
        best = _ranked(trials.values())[0].composition
        fresh = [proposal for proposal in _neighbours(best, worst) if proposal[0] not in trials]
        if not fresh:
            break
        attempt(*fresh[0])
    return _compared(search, _ranked(trials.values()))


def _ranked(trials: Iterable[Scored]) -> list[Scored]:
    return sorted(trials, key=lambda trial: -trial.retention.harmonic_mean)


def _compared(search: Search, ranked: Sequence[Scored]) -> list[Trial]:
    """Return the trials, best first, each with its distance to the best at the same resampled prompts and seeds."""
    best, resampled = ranked[0].retention.harmonic_mean, [search.resampled(trial.scores) for trial in ranked]
    return [
        Trial(
            trial.composition,
            trial.reason,
            trial.retention,
            trial.scores,
            interval(trial.retention.harmonic_mean, drawn),
            interval(best - trial.retention.harmonic_mean, resampled[0] - drawn),
        )
        for trial, drawn in zip(ranked, resampled, strict=True)
    ]


def _proposals(
    start: PairScales, scheme: BlockScheme, worst: Sequence[WeightedBlock]
) -> Iterator[tuple[PairScales, str]]:
    yield start, WHOLE
    for identity, style in OVERALL:
        changed = f"identity at {identity:g}" if identity < 1 else f"style at {style:g}"
        yield start.times(identity, style), f"{changed} overall"
    for part, members in scheme.parts:
        covered = {TEXT, *(scheme.block_of(path) for name in members for path in scheme.modules_of(name))}
        kept = tuple((block, float(block in covered)) for block, _ in start.style)
        if any(scale for block, scale in kept if block != TEXT):
            yield PairScales(start.identity, kept), f"style in {part} only"
    for blamed in worst:
        for scale in TURNED_DOWN:
            yield (
                start.with_scale(blamed.adapter, blamed.block, scale),
                f"blamed: {blamed.adapter} {_how(scale)} in {blamed.block}",
            )


def _how(scale: float) -> str:
    return "off" if scale == 0 else f"at {scale:g}"


def _neighbours(best: PairScales, worst: Sequence[WeightedBlock]) -> Iterator[tuple[PairScales, str]]:
    """Yield the best composition with one changed block: first blamed blocks down, then blocks up again."""
    for blamed in worst:
        for scale in TURNED_DOWN:
            if best.scales(blamed.adapter)[blamed.block] > scale:
                reason = f"best so far, {blamed.adapter} {_how(scale)} in {blamed.block}"
                yield best.with_scale(blamed.adapter, blamed.block, scale), reason
    for blamed in reversed(worst):
        now = best.scales(blamed.adapter)[blamed.block]
        for scale in (0.5, 1.0):
            if now < scale:
                reason = f"best so far, {blamed.adapter} up to {scale:g} in {blamed.block}"
                yield best.with_scale(blamed.adapter, blamed.block, scale), reason


def recommend(
    base: LoadedBase,
    files: tuple[Path, Path],
    judge: Judge,
    sampling: Sampling,
    budget: int,
    seed: int = 0,
    on_condition: OnCondition | None = None,
) -> Recommendation:
    """Return the compositions that were tried, the best first, and what each adapter gives alone.

    Proposals come from the blame of each block by the activations of the base, for the prompts of the sampling.

    Args:
        base: the base.
        files: files of the identity adapter and of the style adapter.
        judge: the scorers.
        sampling: prompts, seeds, steps.
        budget: number of compositions to try, in addition to the base and each adapter alone.
        seed: seed of the latents.
        on_condition: called before each composition is generated.

    """
    identity, style = (base.adapter(file) for file in files)
    inputs = choose_inputs(base, [], sampling.prompts, LATENTS, seed)
    effects = interaction(
        base.pipe,
        base.scheme,
        identity,
        style,
        inputs,
        draws=0,
        seed=seed,
        on_pass=None if on_condition is None else lambda done, total: on_condition(done, total, "blame of blocks"),
    )
    blame = [
        WeightedBlock(NAMES[block.adapter], block.block, block.gain - max(block.loss or 0.0, 0.0))
        for block in effects.blame
    ]
    conditions = four_conditions()[:3]
    known = measure_fidelity(base.pipe, identity, style, conditions, sampling, judge, on_condition)
    without, with_identity, with_style = known
    done = 0

    def score(condition: Condition) -> ConditionScores:
        nonlocal done
        if on_condition is not None:
            on_condition(done, budget, condition.name)
        done += 1
        return score_condition(base.pipe, identity, style, condition, sampling, judge)

    search = Search(score, without, with_identity, with_style, judge.leading, len(sampling.seeds))
    blocks = {"identity": tuple(identity.blocks()), "style": tuple(style.blocks())}
    return Recommendation(tuple(search_scales(search, base.scheme, blocks, blame, budget)), tuple(known))
