"""The search for a composition, on a made-up world where the best one is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from diffusers import UNet2DConditionModel

from bwlab.adapters.adapter import Adapter, create_adapter
from bwlab.blocks.configs import KNOWN
from bwlab.blocks.families import scheme_for
from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError
from bwlab.plugins.manager import build_manager
from bwlab_analysis.activations.probe import scheme_of
from bwlab_analysis.fidelity.bootstrap import bootstrap
from bwlab_analysis.fidelity.conditions import Condition
from bwlab_analysis.fidelity.moves import Move, PairScales, cell_moves, single_moves, usual_moves
from bwlab_analysis.fidelity.recommend import (
    Proof,
    Recommendation,
    Rollouts,
    Scale,
    Search,
    Shares,
    Trial,
    proof_of,
)
from bwlab_analysis.fidelity.scores import ConditionScores, Sampling
from bwlab_analysis.report.documents import recommend_document
from bwlab_analysis.report.fidelity import present_recommendation
from bwlab_analysis.report.verdict import interval_name, recommendation_text
from tests.conftest import tiny_unet

LEADING = ("who", "how", "what")
WHOLE = PairScales(
    tuple((block, 1.0) for block in ("in1", "mid", "out1")), tuple((block, 1.0) for block in ("in0", "out1", "out3"))
)
REFERENCES = (1.0, 0.9)
World = Callable[[Mapping[str, float], Mapping[str, float], tuple[str, str]], tuple[float, float, float]]


def harmful(identity: Mapping[str, float], style: Mapping[str, float], schedules: tuple[str, str]) -> Any:
    """Return scores of a world where the style's out1 takes the identity away, and its late start costs nothing."""
    who = sum(identity[block] for block in ("in1", "mid", "out1")) / 3
    how = sum(style[block] for block in ("in0", "out3")) / 2
    return 0.2 + 0.5 * min(who, 1) * (1 - 0.6 * style["out1"]), 0.1 + 0.6 * min(how, 1), 1.0


class MadeUp:
    """A world in place of a base: an image is the three scores of its composition plus noise of its seed."""

    def __init__(self, world: World = harmful, noise: float = 0.0) -> None:
        self.world, self.noise, self.made = world, noise, 0
        self.seeds: set[int] = set()

    def sample(self, condition: Condition, seeds: Sequence[int]) -> Any:
        blocks = ("in0", "in1", "mid", "out1", "out3")
        scales: list[dict[str, Any]] = [
            {
                **dict.fromkeys(blocks, scale if isinstance(scale, float) else 0.0),
                **(scale if isinstance(scale, Mapping) else {}),
            }
            for scale in (condition.identity, condition.style)
        ]
        true = np.asarray(self.world(scales[0], scales[1], condition.schedules), np.float64)
        self.made += 2 * len(seeds)
        self.seeds |= set(seeds)
        return [
            true + self.noise * np.random.default_rng((prompt, seed)).normal(size=3)
            for prompt in range(2)
            for seed in seeds
        ]

    def score(self, condition: Condition, images: Sequence[Any], seeds: int) -> ConditionScores:
        values = {name: tuple(float(image[place]) for image in images) for place, name in enumerate(LEADING)}
        scores = {name: bootstrap(np.reshape(own, (-1, seeds))) for name, own in values.items()}
        return ConditionScores(condition, condition.name, scores, values, tuple(images))

    def search(self, budget: int) -> Search:
        return Search(Rollouts(self.sample, self.score, 2, budget, 1000), Scale(LEADING, REFERENCES))


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return tiny_unet()


def run(unet: UNet2DConditionModel, world: MadeUp, budget: int) -> tuple[list[Trial], Trial | None]:
    search = world.search(budget)
    search.known()
    return search.run(WHOLE, single_moves(WHOLE, scheme_of(unet)), lambda move: ())


def test_it_finds_the_block_to_turn_down_and_what_to_make_stronger(unet: UNet2DConditionModel) -> None:
    trials, best = run(unet, MadeUp(), budget=600)
    assert best is trials[0]
    assert best.composition.scales("style")["out1"] == 0
    assert best.shares.balance > 0.74
    assert len(best.scores.images) == 64
    assert len({trial.composition for trial in trials}) == len(trials)
    rounds = [len(trial.scores.images) for trial in trials]
    assert rounds == sorted(rounds, reverse=True)
    for count in set(rounds):
        balances = [trial.shares.balance for trial in trials if len(trial.scores.images) == count]
        assert balances == sorted(balances, reverse=True)


@pytest.mark.parametrize("budget", [32, 33, 60, 200])
def test_the_budget_is_kept_and_both_whole_are_always_tried(unet: UNet2DConditionModel, budget: int) -> None:
    world = MadeUp()
    trials, best = run(unet, world, budget)
    assert best is None or best.moves
    assert len(trials) > 1 or best is None
    assert world.made <= budget
    assert "both whole" in {trial.reason for trial in trials}
    assert min(world.seeds) == 1000


def test_moves_that_help_are_combined(unet: UNet2DConditionModel) -> None:
    def two(identity: Mapping[str, float], style: Mapping[str, float], schedules: tuple[str, str]) -> Any:
        """Return scores of a world where two changes help, each half as much as both."""
        both = any(identity.values()) * (0.2 * (style["out1"] == 0) + 0.2 * (schedules[1] == "0.33-1:1") + 0.2)
        return 0.2 + both, 0.1 + 0.6 * min(style["in0"], 1), 1.0

    _, best = run(unet, MadeUp(two), 600)
    assert best is not None
    assert len(best.moves) == 2
    assert best.composition.schedules == ("", "0.33-1:1")
    assert best.composition.scales("style")["out1"] == 0


def test_the_usual_moves_are_tried_together_even_if_each_of_them_harms(unet: UNet2DConditionModel) -> None:
    def world(identity: Mapping[str, float], style: Mapping[str, float], schedules: tuple[str, str]) -> Any:
        """Return scores of a world in which a stronger identity needs a weaker style in out1."""
        stronger, weaker = identity["in1"] == 1.5, style["out1"] == 0.7
        gained = 0.4 if stronger and weaker else 0.0 if stronger or weaker else 0.2
        return 0.2 + any(identity.values()) * gained, 0.1 + 0.6 * min(style["in0"], 1), 1.0

    moves = usual_moves(WHOLE, scheme_of(unet))
    assert [move.reason for move in moves] == [
        "style at 1.2 in upper and 0.7 elsewhere",
        "identity at 1.5 in middle",
    ]
    for together, found in ((moves, moves), ((), None)):
        search = MadeUp(world).search(200)
        search.known()
        _, best = search.run(WHOLE, moves, lambda move: (), together)
        assert (best and best.moves) == found
    assert best is None


def test_the_usual_moves_need_blocks_inside_and_outside_of_their_part(unet: UNet2DConditionModel) -> None:
    scheme = scheme_of(unet)
    upper, all_of_them = (("in0", 1.0), ("out3", 1.0), ("te", 1.0)), (*WHOLE.style, ("te", 1.0))
    assert len(usual_moves(WHOLE, scheme)) == 2
    assert not usual_moves(PairScales(upper, upper), scheme)
    (move,) = usual_moves(PairScales(all_of_them, all_of_them), scheme)
    scales = move.applied(PairScales(all_of_them, all_of_them)).scales("style")
    assert (scales["in0"], scales["out3"], scales["out1"], scales["te"]) == (1.2, 1.2, 0.7, 1.0)
    named = {move.reason for move in single_moves(WHOLE, scheme)}
    assert len(named) == len(list(single_moves(WHOLE, scheme))), "no move is tried twice"


@pytest.mark.parametrize(("name", "parts"), [("sdxl", {"content", "style"}), ("z-image", {"modulation"})])
def test_parts_of_single_modules_are_not_taken_for_their_blocks(name: str, parts: set[str]) -> None:
    scheme = scheme_for(KNOWN[name])
    assert scheme is not None
    assert parts <= {part for part, _ in scheme.parts}
    scales = tuple((block, 1.0) for block in scheme.blocks())
    words = [move.words for move in single_moves(PairScales(scales, scales), scheme)]
    assert not [word for word in words if word.split()[-1] in parts or word.removesuffix(" only").split()[-1] in parts]
    assert f"off in {scheme.blocks()[1]}" in words


def test_a_spec_says_what_differs() -> None:
    off = Move("style", "off in out1", {"out1": 0.0}, block="out1")
    changed = Move("identity", "at 1.6 overall", {"*": 1.6}).applied(off.applied(WHOLE))
    assert WHOLE.spec("identity") == "*=1"
    assert changed.spec("style") == "out1=0, *=1"
    assert changed.spec("identity") == "*=1.6"
    cell = Move("style", "off in out1.0", {"out1.0": 0.0}, block="out1")
    assert cell.applied(WHOLE).spec("style") == "out1.0=0, *=1"
    assert Move("style", "at 0.5 overall", {"*": 0.5}).applied(cell.applied(WHOLE)).spec("style") == "out1.0=0, *=0.5"
    assert cell.applied(off.applied(WHOLE)).scales("style")["out1.0"] == 0


def test_moves_that_make_no_sense_together() -> None:
    stronger, weaker = (Move("style", "overall", {"*": factor}) for factor in (1.3, 0.5))
    late, later = (Move("style", "late", schedule=spans) for spans in ("0.3-1:1", "0.5-1:1"))
    assert stronger.clashes(weaker)
    assert late.clashes(later)
    assert not late.clashes(stronger)
    assert not stronger.clashes(Move("identity", "overall", {"*": 1.3}))


def test_layers_of_text_encoders_stay_on_in_parts_and_the_spec_says_so(unet: UNet2DConditionModel) -> None:
    scheme, blocks = scheme_of(unet), ("in0", "in1", "out1", "out3", "te")
    whole = PairScales(WHOLE.identity, tuple((block, 1.0) for block in blocks))
    parts = [move for move in single_moves(whole, scheme) if move.words.startswith("in ")]
    assert parts
    for move in parts:
        found = move.applied(whole)
        assert found.scales("style")["te"] == 1
        spec = parse_spec(found.spec("style"), scheme, kind="scale").by_block()
        assert {block: spec[block] for block in blocks} == found.scales("style")


def test_a_block_is_split_into_the_cells_that_the_adapter_has(unet: UNet2DConditionModel) -> None:
    scheme, manager = scheme_of(unet), build_manager()
    rank = parse_spec("in0=2", scheme, kind="rank")
    adapter: Adapter = create_adapter(unet, manager.adapter_type("locon"), rank, None, scheme=scheme)
    cells = list(cell_moves(Move("style", "off in in0", {"in0": 0.0}, block="in0"), adapter))
    assert {cell for move in cells for cell in move.factors} == {scheme.cell_of(path) for path in adapter.layers}
    assert len(cells) > 1
    for move in cells:
        parse_spec(move.applied(PairScales.whole(adapter, adapter)).spec("style"), scheme, kind="scale")
    assert not list(cell_moves(Move("style", "late", schedule="0.3-1:1"), adapter))


def test_what_shares_are() -> None:
    world = MadeUp(lambda identity, style, schedules: (0.6, 0.9, 0.9))
    base = MadeUp(lambda identity, style, schedules: (0.2, 0.1, 1.0))
    (of_world, of_base) = (
        one.score(Condition("", 0.0, 0.0), one.sample(Condition("", 0.0, 0.0), [0]), 1) for one in (world, base)
    )
    found = Scale(LEADING, REFERENCES).shares(of_world, of_base)
    assert (found.identity, found.style, found.text) == pytest.approx((0.5, 1, 0.9))
    assert Shares(0.5, 2, 1).balance == pytest.approx(0.75)
    assert Shares(-0.1, 1, 1).balance == 0


@pytest.mark.parametrize(
    ("references", "world", "told"),
    [
        (
            REFERENCES,
            lambda identity, style, schedules: (0.2, 0.1 + 0.2 * style["in0"], 1),
            "who is 0.200 with the adapter alone",
        ),
        ((0.1, 0.9), harmful, "who is 0.100 for the reference images"),
    ],
)
def test_nothing_to_gain_is_told(references: tuple[float, float], world: World, told: str) -> None:
    made = MadeUp(world)
    search = Search(Rollouts(made.sample, made.score, 2, 100, 0), Scale(LEADING, references))
    with pytest.raises(BwlabError, match=told):
        search.known()


def proved(unet: UNet2DConditionModel, world: MadeUp, seeds: int = 12) -> Recommendation:
    """Return the result of a search with its proof."""
    trials, best = run(unet, world, 600)
    assert best is not None
    sampling = Sampling(("a", "b"), tuple(range(seeds)))
    rollouts = Rollouts(world.sample, world.score, 2, 10_000, 0)
    proof = proof_of(Scale(LEADING, REFERENCES), best.composition, sampling, rollouts, new_prompts=True)
    return Recommendation(tuple(trials), best, proof, (), 600, sampling)


def test_what_is_better_is_proved_with_other_seeds(unet: UNet2DConditionModel) -> None:
    world = MadeUp(noise=0.05)
    found = proved(unet, world)
    assert found.improves
    assert found.proof is not None
    assert 0.1 < found.proof.gain.low < found.proof.gain.mean < found.proof.gain.high < 0.4
    assert found.best is not None
    assert found.composition == found.best.composition
    shown = present_recommendation(found, scheme_of(unet), "bwlab generate")
    assert shown.title == "Recommended composition"
    document: Any = recommend_document({}, found, scheme_of(unet), "bwlab generate")
    assert document["recommended"] is True
    assert document["verdict"].startswith("Use the scales below: in 24 images for prompts and seeds that the search")
    assert document["proof"]["gain"]["low"] == found.proof.gain.low
    assert document["specs"]["style"] == found.composition.spec("style")


def test_the_best_of_many_equal_ones_is_not_recommended(unet: UNet2DConditionModel) -> None:
    """All compositions are equal and noisy: one of them looks better than both at scale 1, and the proof shows it."""
    world = MadeUp(
        lambda identity, style, schedules: (
            (0.5, 0.5, 1.0) if max([*identity.values(), *style.values()]) else (0.2, 0.1, 1.0)
        ),
        0.2,
    )

    def sample(condition: Condition, seeds: Sequence[int]) -> Any:
        own = np.random.default_rng([1, *condition.name.encode()])
        return [image + 0.1 * own.normal(size=3) for image in world.sample(condition, seeds)]

    search = Search(Rollouts(sample, world.score, 2, 600, 1000), Scale(LEADING, REFERENCES))
    trials, best = search.run(WHOLE, single_moves(WHOLE, scheme_of(unet)), lambda move: ())
    assert best is not None
    proof = proof_of(
        Scale(LEADING, REFERENCES),
        best.composition,
        Sampling(("a", "b"), tuple(range(12))),
        Rollouts(world.sample, world.score, 2, 10_000, 0),
        new_prompts=False,
        rounds=1,
    )
    found = Recommendation(tuple(trials), best, proof, (), 600, Sampling(("a", "b"), (0,)))
    assert not found.improves
    assert found.composition == WHOLE
    document: Any = recommend_document({}, found, scheme_of(unet), "")
    assert document["recommended"] is False
    assert document["verdict"].startswith("Leave both as they are: in 24 images for seeds that the search did not use")
    assert document["specs"] == {"identity": "*=1", "style": "*=1"}


def rounds_of_proof(noise: float, gain: float, rounds: int = 3, seeds: int = 8) -> tuple[Proof, MadeUp]:
    """Return the proof of a composition whose style is half in out1, which gains this much, with noisy images."""
    world = MadeUp(
        lambda identity, style, schedules: (
            (0.55 + (gain if style["out1"] == 0.5 else 0), 0.5, 1.0)
            if max([*identity.values(), *style.values()])
            else (0.2, 0.1, 1.0)
        )
    )

    def sample(condition: Condition, seeds: Sequence[int]) -> Any:
        """Return images with noise of their own in each composition."""
        made = world.sample(condition, seeds)
        own = [np.random.default_rng([*condition.name.encode(), seed]) for _ in range(2) for seed in seeds]
        return [image + noise * one.normal(size=3) for image, one in zip(made, own, strict=True)]

    half = Move("style", "at half in out1", {"out1": 0.5}, block="out1").applied(WHOLE)
    rollouts = Rollouts(sample, world.score, 2, 10_000, 0)
    sampling = Sampling(("a", "b"), tuple(range(seeds)))
    return proof_of(Scale(LEADING, REFERENCES), half, sampling, rollouts, new_prompts=True, rounds=rounds), world


@pytest.mark.parametrize(
    ("noise", "gain", "images", "better"),
    [
        (0.02, 0.2, 16, True),  # told at once
        (0.02, -0.2, 16, False),
        (0.1, 0.1, 64, True),  # not in 16 images
        (0.2, 0.0, 64, False),  # open to the end
    ],
)
def test_the_proof_takes_as_many_images_as_it_needs(noise: float, gain: float, images: int, better: bool) -> None:
    proof, world = rounds_of_proof(noise, gain)
    assert len(proof.best.images) == len(proof.whole.images) == images
    assert proof.sampling.seeds == tuple(range(images // 2))
    assert world.made == 3 * images
    assert (proof.gain.low > 0) == better


def test_each_look_of_a_proof_widens_the_interval() -> None:
    """Three looks at 98.3 % are wrong no more often than one at 95 %."""
    once, _ = rounds_of_proof(0.02, 0.2, rounds=1)
    first_of_three, _ = rounds_of_proof(0.02, 0.2)
    assert len(once.best.images) == len(first_of_three.best.images)
    assert first_of_three.gain.low < once.gain.low < once.gain.mean == first_of_three.gain.mean
    assert interval_name(once) == "95 % interval"
    assert interval_name(first_of_three) == "95 % interval, corrected for 3 rounds of images,"


def test_what_is_better_and_still_bad_is_not_recommended(unet: UNet2DConditionModel) -> None:
    weak: World = lambda identity, style, schedules: (  # noqa: E731
        (0.2 + 0.03 * identity["in1"] * (2 - style["out1"]), 0.1 + 0.3 * min(style["in0"], 1), 1.0)
    )
    found = proved(unet, MadeUp(weak))
    assert found.improves
    shown = present_recommendation(found, scheme_of(unet), "bwlab generate")
    assert shown.title == "Compositions tried"
    document: Any = recommend_document({}, found, scheme_of(unet), "")
    assert document["recommended"] is False
    assert document["verdict"].startswith("No composition is recommended: the best of ")
    assert found.composition == WHOLE, "what is not recommended is not handed on"
    assert document["specs"] == {"identity": "*=1", "style": "*=1"}


def said_of(proof: Proof) -> str:
    """Return what is recommended after a proof."""
    found = Recommendation(
        (), Trial(WHOLE, (), proof.best_shares, proof.best, proof.gain), proof, (), 600, proof.sampling
    )
    assert not found.improves
    return recommendation_text(found)


def test_a_proof_needs_twelve_images() -> None:
    """An interval of one or two images is as narrow as these happen to be."""
    few, _ = rounds_of_proof(0.02, 0.2, rounds=1, seeds=2)
    assert (len(few.best.images), few.gain.low > 0) == (4, True)
    assert "but fewer than 12 images prove nothing. Give more prompts, or more --seeds to" in said_of(few)
    more, _ = rounds_of_proof(0.02, 0.2, seeds=2)
    assert (len(more.best.images), more.gain.low > 0, more.enough) == (16, True, True)


def test_what_is_worse_is_called_worse() -> None:
    worse, _ = rounds_of_proof(0.02, -0.2)
    assert worse.gain.high < 0
    assert said_of(worse).endswith("which is worse. A larger --budget searches more compositions.")
