"""The search for a composition of two adapters that is better than both of them at scale 1, and its proof.

Compositions are generated in few steps and scored. All begin with few images; the best get more and more, and are
combined (successive halving: Jamieson and Talwalkar, arXiv 1502.07943). The best composition is then generated in full
beside both adapters at scale 1, with seeds and, if there are several, prompts that the search did not use, because the
best of many looks better than it is. This proof takes as many rounds of images as it needs, up to `PROOF_ROUNDS`, and
its intervals are widened for that number of looks (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from bwlab.errors import BwlabError
from bwlab_analysis.activations.loaded_base import LoadedBase
from bwlab_analysis.fidelity.bootstrap import (
    CONFIDENCE,
    ENOUGH_VALUES,
    Array,
    harmonic_mean,
    interval,
    resampled_means,
)
from bwlab_analysis.fidelity.conditions import Condition, four_conditions
from bwlab_analysis.fidelity.moves import WHOLE, Move, PairScales, cell_moves, single_moves, usual_moves
from bwlab_analysis.fidelity.scores import (
    ConditionScores,
    Judge,
    OnCondition,
    Sampling,
    sample_condition,
    scored,
)
from bwlab_analysis.measures import IDENTITY, STYLE, Interval

if TYPE_CHECKING:
    from PIL.Image import Image

    from bwlab.adapters.adapter import Adapter

FIRST_IMAGES = 8
"""Smallest number of images of each composition in the first round; every prompt gets equally many."""
COMBINED = 5
"""Number of the best single moves that are combined with each other."""
SINGLES = 0.4
"""Share of the budget for single moves."""
ROUNDS = (6, 3, 2)
"""Number of compositions that get twice as many images, round by round."""
PROOF_ROUNDS = 3
"""Number of rounds of the proof at most; each doubles the number of images."""
LEAST_GAIN = 0.02
"""A change of the balance that is not worth more images of the proof."""
ENOUGH_RETAINED = 0.25
"""Smallest share of the way from the base to the references, of both adapters, in a recommended composition."""
SEARCH_SEEDS = 100_000
"""The first seed of the search: far from the seeds of the proof."""


class NothingGained(BwlabError):
    """There is nothing to search for: an adapter alone, or its reference images, score no better than the base."""


@dataclass(frozen=True)
class Shares:
    """How far a composition gets from the base to the reference images, by each score.

    Attributes:
        identity, style: `(score - base) / (references - base)`; 0: as the base, 1: as the reference images.
        text: the text score as a share of the base's.

    """

    identity: float
    style: float
    text: float

    @property
    def balance(self) -> float:
        """The harmonic mean of the three, each counted as at most 1; 0 if one is lost."""
        return harmonic_mean([min(1.0, share) for share in (self.identity, self.style, self.text)])


@dataclass(frozen=True)
class Scale:
    """The scale on which scores become shares.

    Attributes:
        leading: names of the scorers of identity, style and text.
        references: scores of the identity's reference images by the first, of the style's by the second.

    """

    leading: tuple[str, ...]
    references: tuple[float, float]

    def shares(self, scores: ConditionScores, base: ConditionScores) -> Shares:
        """Return how far a composition gets, by the means over its images."""
        means, zero = (
            [np.mean(table.values[name], keepdims=True) for name in self.leading] for table in (scores, base)
        )
        return Shares(*(float(share[0]) for share in self._of_means(means, zero)))

    def gain(
        self,
        changed: ConditionScores,
        whole: ConditionScores,
        base: ConditionScores,
        seeds: int,
        confidence: float = CONFIDENCE,
    ) -> Interval:
        """Return the balance of a composition minus that of another, with the interval over prompts and seeds."""
        mean = self.shares(changed, base).balance - self.shares(whole, base).balance
        return interval(mean, self.balances(changed, base, seeds) - self.balances(whole, base, seeds), confidence)

    def balances(self, scores: ConditionScores, base: ConditionScores, seeds: int) -> Array:
        """Return resamples of the balance; for tables of one shape, the same prompts and seeds are drawn."""
        means, zero = (
            [resampled_means(np.reshape(table.values[name], (-1, seeds))) for name in self.leading]
            for table in (scores, base)
        )
        return np.array([harmonic_mean(three) for three in np.minimum(np.transpose(self._of_means(means, zero)), 1)])

    def require_gains(self, base: ConditionScores, alone: Mapping[str, ConditionScores]) -> None:
        """Raise NothingGained for an adapter that alone scores no better than the base, or whose references do not."""
        for adapter, top, name in zip((IDENTITY, STYLE), self.references, self.leading, strict=False):
            zero = base.scores[name].mean
            with_it = alone[adapter].scores[name].mean
            if with_it <= zero:
                found = f"{name} is {with_it:.3f} with the adapter alone and {zero:.3f} without any adapter"
                fix = (
                    "Give reference images and prompts of the adapter's subject, or search with more steps "
                    "(--search-steps of 'bwlab analyze recommend', --steps of 'conflict')"
                )
                raise NothingGained(f"improving on the {adapter} adapter", found, fix)
            if top <= zero:
                found = f"{name} is {top:.3f} for the reference images and {zero:.3f} for images without any adapter"
                raise NothingGained(f"improving on the {adapter} adapter", found, "Give other reference images")

    def _of_means(self, means: Sequence[Array], zero: Sequence[Array]) -> list[Array]:
        shares = [
            (mean - low) / np.maximum(top - low, 1e-9)
            for mean, low, top in zip(means, zero, self.references, strict=False)
        ]
        # A base whose text score is 0 or below gives nothing to lose.
        known = zero[2] > 0
        return [*shares, np.where(known, means[2] / np.where(known, zero[2], 1), 1.0)]


@dataclass(frozen=True, eq=False)
class Trial:
    """A composition that was tried in the search.

    Attributes:
        composition: its scales.
        moves: the moves that lead to it from both adapters at scale 1.
        shares: how far it gets from the base to the reference images.
        scores: its scores and images.
        balance: the balance of its shares, with the interval over prompts and seeds.

    """

    composition: PairScales
    moves: tuple[Move, ...]
    shares: Shares
    scores: ConditionScores
    balance: Interval

    @property
    def reason(self) -> str:
        """The moves in words."""
        return ", ".join(move.reason for move in self.moves) or WHOLE


@dataclass(frozen=True, eq=False)
class Proof:
    """The best composition of the search beside both adapters at scale 1, in images that the search did not use.

    Attributes:
        sampling: prompts, seeds and steps.
        whole, best: scores and images of both adapters at scale 1 and of the best composition.
        whole_shares, best_shares: how far each gets from the base to the reference images.
        gain: the balance of the best composition minus that of both at scale 1; interval over prompts and seeds, 95 %
            for all rounds together.
        new_prompts: whether the prompts are new too, not only the seeds.
        rounds: number of rounds that there might have been.

    """

    sampling: Sampling
    whole: ConditionScores
    best: ConditionScores
    whole_shares: Shares
    best_shares: Shares
    gain: Interval
    new_prompts: bool
    rounds: int = PROOF_ROUNDS

    @property
    def enough(self) -> bool:
        """Whether there are enough images for a verdict."""
        return len(self.best.images) >= ENOUGH_VALUES


@dataclass(frozen=True, eq=False)
class Recommendation:
    """The result of a search.

    Attributes:
        trials: the compositions that were tried, those with most images first, and of these the best.
        best: the composition that was best in the search; None if none was better than both adapters at scale 1.
        proof: the best composition beside both adapters at scale 1; None if there is no best one.
        known: scores and images of the base and of each adapter alone.
        budget: number of images that the search could make.
        searched: prompts, seeds and steps of the search; its first compositions have fewer seeds.

    """

    trials: tuple[Trial, ...]
    best: Trial | None
    proof: Proof | None
    known: tuple[ConditionScores, ...]
    budget: int
    searched: Sampling

    @property
    def improves(self) -> bool:
        """Whether the best composition is better than both adapters at scale 1, beyond the noise of the proof."""
        return self.proof is not None and self.proof.enough and self.proof.gain.low > 0

    @property
    def recommended(self) -> bool:
        """Whether the best composition is better and shows enough of both adapters."""
        if not self.improves or self.proof is None:
            return False
        return min(self.proof.best_shares.identity, self.proof.best_shares.style) >= ENOUGH_RETAINED

    @property
    def composition(self) -> PairScales:
        """The composition to use: the best one if it is recommended, otherwise both at scale 1."""
        if self.recommended and self.best is not None:
            return self.best.composition
        return next(trial.composition for trial in self.trials if not trial.moves)


Sample: TypeAlias = Callable[[Condition, Sequence[int]], Sequence["Image"]]
"""Function that generates a composition for each prompt with each seed, prompt by prompt."""
Score: TypeAlias = Callable[[Condition, Sequence["Image"], int], ConditionScores]
"""Function that scores images of a composition, given the number of adjacent images that belong to each prompt."""


class Rollouts:
    """Images of compositions with more and more seeds, and their scores.

    Args:
        sample: function that generates a composition.
        score: function that scores its images.
        prompts: number of prompts.
        budget: maximum number of images to generate.
        first_seed: the first seed.

    """

    def __init__(self, sample: Sample, score: Score, prompts: int, budget: int, first_seed: int = 0) -> None:
        self._sample, self._score, self._first = sample, score, first_seed
        self._images: dict[str, list[list[Image]]] = {}  # by composition, for each prompt
        self._scores: dict[tuple[str, int], ConditionScores] = {}  # by composition and number of seeds
        self.prompts, self.left = prompts, budget

    def cost(self, condition: Condition, seeds: int) -> int:
        """Return the number of images to generate until a composition has this number of seeds."""
        return max(0, seeds - self._made(condition)) * self.prompts

    def scores(self, condition: Condition, seeds: int) -> ConditionScores:
        """Return the scores of a composition with this number of seeds; missing images are generated."""
        key = condition.name, seeds
        if key in self._scores:
            return self._scores[key]
        made = self._made(condition)
        rows = self._images.setdefault(condition.name, [[] for _ in range(self.prompts)])
        if made < seeds:
            new = self._sample(condition, range(self._first + made, self._first + seeds))
            self.left -= len(new)
            for prompt, row in enumerate(rows):
                row.extend(new[prompt * (seeds - made) : (prompt + 1) * (seeds - made)])
        self._scores[key] = self._score(condition, [image for row in rows for image in row[:seeds]], seeds)
        return self._scores[key]

    def _made(self, condition: Condition) -> int:
        rows = self._images.get(condition.name)
        return len(rows[0]) if rows else 0


class Search:
    """The search over compositions of two adapters.

    Args:
        rollouts: images and scores of compositions.
        scale: the scale on which scores become shares.

    """

    def __init__(self, rollouts: Rollouts, scale: Scale) -> None:
        self._rollouts, self._scale = rollouts, scale
        self._base, *self._alone = four_conditions()[:3]
        self._first = math.ceil(FIRST_IMAGES / rollouts.prompts)
        self._trials: dict[PairScales, tuple[int, Trial]] = {}  # with the number of seeds

    def known(self) -> tuple[ConditionScores, ...]:
        """Return the scores of the base and of each adapter alone; NothingGained if one is no better than the base."""
        base, identity, style = (
            self._rollouts.scores(condition, self._first) for condition in (self._base, *self._alone)
        )
        self._scale.require_gains(base, {IDENTITY: identity, STYLE: style})
        return base, identity, style

    def run(
        self,
        whole: PairScales,
        moves: Iterable[Move],
        refine: Callable[[Move], Iterable[Move]],
        together: tuple[Move, ...] = (),
    ) -> tuple[list[Trial], Trial | None]:
        """Return the compositions that were tried, and the one that improves most on both adapters at scale 1.

        Single moves come first, with a share of the budget. Then `together` and the best of them are combined, and
        moves of one block are tried on its cells. Round by round, fewer compositions get twice as many images; after
        the first of these rounds, further moves are added to the leader.

        Args:
            whole: the composition to begin with.
            moves: moves to try, the most likely ones to help first.
            refine: function that returns the moves of single cells that make up a move.
            together: moves that are tried together, whatever the score of each alone.

        Returns:
            The compositions, those with most images first and of these the best; and the best one, or None if both
            adapters at scale 1 are at least as good in the same images.

        """
        seeds, singles = self._first, self._best_singles(whole, moves)
        for combined in (together, *_combinations(singles), *((cell,) for move in singles for cell in refine(move))):
            self._try(whole, combined, seeds)
        for kept in ROUNDS:
            seeds *= 2
            leaders = [trial for trial in self._ranked() if trial.moves][:kept]
            compared = [self._base, whole.condition(), *(trial.composition.condition() for trial in leaders[:1])]
            if sum(self._rollouts.cost(condition, seeds) for condition in compared) > self._rollouts.left:
                break
            for moved in ((), *(trial.moves for trial in leaders)):
                self._try(whole, moved, seeds)
            for move in singles if leaders and kept == ROUNDS[0] else ():
                self._try(whole, (*self._leader().moves, move), seeds)
        return self._ranked(), self._better_than(whole)

    def _best_singles(self, whole: PairScales, moves: Iterable[Move]) -> list[Move]:
        """Try both at scale 1 and single moves within their share of the budget, and return the best that help."""
        least = (1 - SINGLES) * self._rollouts.left
        self._try(whole, (), self._first)
        for move in moves:
            if self._rollouts.left > least:
                self._try(whole, (move,), self._first)
        ranked = self._ranked()
        helpful = ranked[: next(place for place, trial in enumerate(ranked) if not trial.moves)]
        return [trial.moves[0] for trial in helpful[:COMBINED]]

    def _try(self, whole: PairScales, moves: tuple[Move, ...], seeds: int) -> None:
        """Try moves with this number of seeds, if the budget allows it and they were not tried yet."""
        if any(move.clashes(other) for move, other in combinations(moves, 2)):
            return
        composition = whole
        for move in moves:
            composition = move.applied(composition)
        condition = composition.condition()
        done, _ = self._trials.get(composition, (0, None))
        cost = sum(self._rollouts.cost(needed, seeds) for needed in (condition, self._base))
        if done >= seeds or (cost > self._rollouts.left and self._trials):
            return
        base, scores = self._rollouts.scores(self._base, seeds), self._rollouts.scores(condition, seeds)
        shares = self._scale.shares(scores, base)
        balance = interval(shares.balance, self._scale.balances(scores, base, seeds))
        self._trials[composition] = seeds, Trial(composition, moves, shares, scores, balance)

    def _leader(self) -> Trial:
        return next(trial for trial in self._ranked() if trial.moves)

    def _better_than(self, whole: PairScales) -> Trial | None:
        """Return the leader if it is better than both adapters at scale 1 in the same images."""
        if len(self._trials) == 1:
            return None
        leader = self._leader()
        seeds = len(leader.scores.images) // self._rollouts.prompts
        base, at_one = (self._rollouts.scores(condition, seeds) for condition in (self._base, whole.condition()))
        return leader if leader.shares.balance > self._scale.shares(at_one, base).balance else None

    def _ranked(self) -> list[Trial]:
        ranked = sorted(self._trials.values(), key=lambda item: (-item[0], -item[1].shares.balance))
        return [trial for _, trial in ranked]


def _combinations(moves: Sequence[Move]) -> Iterator[tuple[Move, ...]]:
    """Yield combinations of moves: the first two, three and so on, then all pairs."""
    nested = [tuple(moves[:count]) for count in range(2, len(moves) + 1)]
    yield from dict.fromkeys((*nested, *combinations(moves, 2)))


def least_budget(prompts: int) -> int:
    """Return the smallest budget of a search with this number of prompts: the base, each adapter alone, and both."""
    return 4 * prompts * math.ceil(FIRST_IMAGES / prompts)


def require_budget(budget: int, prompts: int) -> None:
    """Raise BwlabError unless a budget suffices for the base, each adapter alone, and both.

    Args:
        budget: number of images of the search.
        prompts: number of prompts of the search and the proof, of which every other one is searched with.

    """
    least = least_budget(math.ceil(prompts / 2))
    if budget < least:
        found = f"the base, each adapter alone and both together take {least} images"
        raise BwlabError(f"--budget {budget}", found, f"Give {least} or more; 600 is a thorough search")


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two adapters in a base with their scorers.

    Attributes:
        base: the base.
        identity, style: the adapters.
        judge: the scorers.
        report: called before images are made with (images that were made, composition).

    """

    base: LoadedBase
    identity: Adapter
    style: Adapter
    judge: Judge
    report: Callable[[int, str], None]

    def rollouts(self, sampling: Sampling, budget: int, first_seed: int, before: int = 0) -> Rollouts:
        """Return images of compositions with these prompts and steps; `before` images were made by others."""

        def sample(condition: Condition, seeds: Sequence[int]) -> Sequence[Image]:
            self.report(before + budget - rollouts.left, condition.name)
            part = replace(sampling, seeds=tuple(seeds))
            return sample_condition(self.base.pipe, self.identity, self.style, condition, part)

        def score(condition: Condition, images: Sequence[Image], seeds: int) -> ConditionScores:
            texts = [prompt for prompt in sampling.prompts for _ in range(seeds)]
            return scored(condition.name, images, texts, seeds, self.judge, condition)

        rollouts = Rollouts(sample, score, len(sampling.prompts), budget, first_seed)
        return rollouts


def recommend(
    base: LoadedBase,
    files: tuple[Path, Path],
    judge: Judge,
    sampling: Sampling,
    budget: int,
    steps: int = 10,
    seed: int = 0,
    on_condition: OnCondition | None = None,
    rounds: int = PROOF_ROUNDS,
) -> Recommendation:
    """Return the compositions that were tried, and the best one beside both adapters at scale 1 in new images.

    Args:
        base: the base.
        files: files of the identity adapter and of the style adapter.
        judge: the scorers.
        sampling: prompts, seeds and steps. With several prompts, the search uses every other one and the proof the
            rest. The steps are those of the proof, and the seeds those of its first round; more follow.
        budget: maximum number of images of the search.
        steps: sampling steps of the search.
        seed: number that is added to the seeds of the search.
        on_condition: called before each composition is generated with (done, all, its name), in images.
        rounds: number of rounds of the proof at most.

    Raises:
        NothingGained: an adapter alone or its reference images score no better than the base.
        BwlabError: the budget does not suffice for the base, each adapter and both.

    """
    identity, style = (base.adapter(file) for file in files)
    prompts = sampling.prompts[::2]
    require_budget(budget, len(sampling.prompts))
    proved = Sampling(sampling.prompts[1::2] or prompts, sampling.seeds, sampling.steps, sampling.cfg)
    total = budget + 3 * len(proved.prompts) * len(proved.seeds) * 2 ** (rounds - 1)

    def report(done: int, name: str) -> None:
        if on_condition is not None:
            on_condition(done, total, name)

    first_seed = SEARCH_SEEDS + seed
    pair = _Pair(base, identity, style, judge, report)
    rollouts = pair.rollouts(Sampling(prompts, (), steps, sampling.cfg), budget, first_seed)
    scale = scale_of(judge, prompts)
    search = Search(rollouts, scale)
    known, whole = search.known(), PairScales.whole(identity, style)
    adapters = {IDENTITY: identity, STYLE: style}
    trials, best = search.run(
        whole,
        single_moves(whole, base.scheme),
        lambda move: cell_moves(move, adapters[move.adapter]),
        usual_moves(whole, base.scheme),
    )
    proof = None
    if best is not None:
        proving = pair.rollouts(proved, total - budget, proved.seeds[0], budget)
        proof = proof_of(scale, best.composition, proved, proving, new_prompts=len(sampling.prompts) > 1, rounds=rounds)
    most = len(trials[0].scores.images) // len(prompts)
    searched = Sampling(prompts, tuple(range(first_seed, first_seed + most)), steps, sampling.cfg)
    return Recommendation(tuple(trials), best, proof, known, budget, searched)


def proof_of(
    scale: Scale,
    best: PairScales,
    sampling: Sampling,
    rollouts: Rollouts,
    *,
    new_prompts: bool,
    rounds: int = PROOF_ROUNDS,
) -> Proof:
    """Return a composition beside both adapters at scale 1, in as many rounds of images as it takes to tell.

    The first round has the seeds of `sampling`, and each further one doubles their number. The rounds end when the
    interval of the gain is below `LEAST_GAIN`, or above 0 in `ENOUGH_VALUES` images or more.

    Args:
        scale: the scale on which scores become shares.
        best: the composition.
        sampling: prompts, steps, and seeds of the first round, which follow each other.
        rollouts: images of these prompts and steps, from the first of these seeds on.
        new_prompts: whether the search used other prompts.
        rounds: number of rounds at most.

    """
    base, *_, both = four_conditions()
    confidence = 1 - (1 - CONFIDENCE) / rounds
    for number in range(rounds):
        seeds = len(sampling.seeds) * 2**number
        without, whole, changed = (rollouts.scores(one, seeds) for one in (base, both, best.condition()))
        gain = scale.gain(changed, whole, without, seeds, confidence)
        enough = seeds * len(sampling.prompts) >= ENOUGH_VALUES
        if (enough and gain.low > 0) or gain.high < LEAST_GAIN:
            break
    used = replace(sampling, seeds=tuple(range(sampling.seeds[0], sampling.seeds[0] + seeds)))
    whole_shares, best_shares = scale.shares(whole, without), scale.shares(changed, without)
    return Proof(used, whole, changed, whole_shares, best_shares, gain, new_prompts, rounds)


def scale_of(judge: Judge, prompts: Sequence[str]) -> Scale:
    """Return the scale of a judge's scores: 1 is the mean score of its reference images."""
    return Scale(judge.leading, _reference_scores(judge, prompts))


def _reference_scores(judge: Judge, prompts: Sequence[str]) -> tuple[float, float]:
    """Return the mean scores of the identity's images by the first scorer, and of the style's by the second."""
    identity, style = (
        float(np.mean(judge.values(images, [prompts[0]] * len(images))[name]))
        for images, name in zip((judge.references.identity, judge.references.style), judge.leading, strict=False)
    )
    return identity, style
