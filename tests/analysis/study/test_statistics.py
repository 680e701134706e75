"""Shares, intervals, what is lost, and rank correlations, on results whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from bwlab_analysis.study.plan import TRUE
from bwlab_analysis.study.results import Floats, PairKey
from bwlab_analysis.study.statistics import (
    Shares,
    ceiling,
    correlation,
    halves,
    harmonic,
    interval,
    losses,
    lost,
    spearman,
    split,
)
from tests.analysis.study.synthetic import IDENTITIES, PAIRS, PROMPTS, SEEDS, STYLES, UNIT, Kept, Told, made, zero

SHAPE = (len(IDENTITIES), len(STYLES), PROMPTS, SEEDS)


def noise(seed: int, size: float = 0.1) -> Floats:
    return np.asarray(np.random.default_rng(seed).normal(0, size, SHAPE))


@pytest.mark.parametrize("true", [True, False])
def test_the_base_is_0_and_the_best_is_1(true: bool) -> None:
    shares = Shares(made({"half": Kept(0.5, 0.25)}, true=true))
    for kind, half in (("identity", 0.5), ("style", 0.25)):
        assert shares.of("base", kind).mean((2, 3)) == pytest.approx(np.zeros(SHAPE[:2]), abs=1e-12)
        top = TRUE if true else f"{kind}'s images"
        assert shares.of(top, kind) == pytest.approx(np.ones((*SHAPE[:2], 1, 1)))
        assert shares.of("half", kind) == pytest.approx(np.full(SHAPE, half))


def test_the_way_from_0_to_1_is_that_of_the_style() -> None:
    """The true images of one style are half as far from the base's as those of the others."""
    results = made({"half": Kept(0.5, 0.5)})
    for identity in IDENTITIES:
        for kind in ("identity", "style"):
            results.scores[TRUE, identity, "ink"][kind][:] -= UNIT / 2
    shares = Shares(results)
    assert shares.of("half", "identity")[:, 0] == pytest.approx(np.full((5, PROMPTS, SEEDS), 1.0))
    assert shares.of("half", "identity")[:, 1:] == pytest.approx(np.full((5, 2, PROMPTS, SEEDS), 0.5))


def test_a_share_is_of_its_own_prompt() -> None:
    """The base's score differs between prompts: what is painted for the first alone is compared with that."""
    shares = Shares(made({"swept": Kept(0.3, 0.6, prompts=1)}))
    assert shares.of("swept", "identity") == pytest.approx(np.full((*SHAPE[:2], 1, SEEDS), 0.3))
    assert shares.balance("swept") == pytest.approx(np.full((*SHAPE[:2], 1, SEEDS), 0.4))
    given_first = shares.of("base", "style", 1)
    assert given_first.shape == (*SHAPE[:2], 1, SEEDS)
    assert given_first == pytest.approx((zero() - zero().mean(3, keepdims=True))[:, :, :1] / UNIT)


def test_balance_is_the_harmonic_mean_and_0_below_0() -> None:
    shares = Shares(made({"both": Kept(0.5, 0.25), "neither": Kept(-0.5, 1.0)}))
    assert shares.balance("both") == pytest.approx(np.full(SHAPE, 1 / 3))
    assert (shares.balance("neither") == 0).all()
    assert shares.balance("both", 1).shape[2] == 1


@settings(max_examples=60)
@given(*(arrays(np.float64, (3,), elements=st.floats(-2, 2, allow_subnormal=False)) for _ in range(2)))
def test_harmonic(one: Floats, other: Floats) -> None:
    found = harmonic(one, other)
    assert (found == harmonic(other, one)).all()
    assert ((found == 0) | ((one > 0) & (other > 0))).all()
    assert (found <= 2 * np.clip(np.minimum(one, other), 0, None) + 1e-12).all()
    assert harmonic(np.abs(one), np.abs(one)) == pytest.approx(np.abs(one))


def test_an_interval_is_over_identities_and_seeds() -> None:
    identities = np.broadcast_to(np.arange(5.0)[:, None, None, None], SHAPE)
    prompts = np.broadcast_to(np.arange(2.0)[None, None, :, None], SHAPE)
    wide, none = interval(identities), interval(prompts)
    assert (wide.mean, none.mean) == (2.0, 0.5)
    assert wide.low < 1.5 < 2.5 < wide.high
    assert none.low == none.high == 0.5, "prompts and styles are not drawn"


def test_intervals_cover() -> None:
    """Of 40 studies whose shares are 0.5 on average, the 95 % intervals of most hold 0.5."""
    held = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        values = 0.5 + rng.normal(0, 0.2, (12, 1, 1, 1)) + rng.normal(0, 0.2, (12, 3, 2, 4))
        found = interval(values)
        held += found.low <= 0.5 <= found.high
    assert held >= 34


def test_what_is_lost_is_against_each_adapter_alone() -> None:
    kept = {
        "both": Kept(0.5, 0.3),
        "first": Kept(0.4, 0.2, prompts=1),
        "a": Kept(0.9, 0.1),
        "b": Kept(0.0, 0.8),
    }
    results = made(kept, Told(alone={"both": ("a", "b"), "first": ("a", "b")}))
    shares = Shares(results)
    assert lost(shares, "both", "identity") == pytest.approx(np.full(SHAPE[:3], 0.4))
    assert lost(shares, "both", "style") == pytest.approx(np.full(SHAPE[:3], 0.5))
    assert lost(shares, "first", "style") == pytest.approx(np.full((*SHAPE[:2], 1), 0.6))
    found = losses(shares, results.alone, "identity")
    assert len(found) == 2 * len(PAIRS)
    assert found["first", "owl", "ink"] == pytest.approx([0.5])
    assert found["both", "owl", "ink"] == pytest.approx([0.4] * PROMPTS)


def test_what_was_recommended_is_a_share_of_the_first_prompts() -> None:
    where = ("both", "bear", "monotone")
    base = zero()[2, 1, :1].mean()
    best = {"identity": np.full((1, SEEDS), base + 0.5 * UNIT), "style": np.full((1, SEEDS), base + 0.25 * UNIT)}
    empty = ("both", "owl", "ink")
    shares = Shares(made({"both": Kept(0, 0)}, Told(recommended={where: best, empty: {}})))
    assert shares.of_recommended(where) == pytest.approx(np.full(SEEDS, 1 / 3))
    assert shares.of_recommended(empty) is None


def test_the_split_shares_neither_identities_nor_styles() -> None:
    told = Told(
        alone={"x": ("a", "b")},
        measures={("x", *pair): {"m": 1.0} for pair in PAIRS} | {("y", *pair): {"m": 1.0} for pair in PAIRS},
    )
    parts = split(made({}, told))
    for column in (1, 2):
        assert not {where[column] for where in parts.chosen_on} & {where[column] for where in parts.held_out}
    assert len(parts.chosen_on) == 2 * 1
    assert len(parts.held_out) == 3 * 2
    assert {where[0] for where in (*parts.chosen_on, *parts.held_out)} == {"x"}


@settings(max_examples=60)
@given(arrays(np.float64, (2, 7), elements=st.integers(-3, 3).map(float)))
def test_spearman_is_scipys(table: Floats) -> None:
    one, other = table
    if np.ptp(one) and np.ptp(other):
        assert spearman(one, other) == pytest.approx(spearmanr(one, other).statistic)
    else:
        assert np.isnan(spearman(one, other))


def test_spearman_of_fewer_than_three() -> None:
    assert np.isnan(spearman(np.array([1.0, 2.0]), np.array([1.0, 2.0])))


def correlated(
    people: int, each: int, strength: float, seed: int
) -> tuple[list[PairKey], dict[PairKey, Floats], Floats]:
    rng = np.random.default_rng(seed)
    where = [("x", f"id{person}", f"style{one}") for person in range(people) for one in range(each)]
    shared = rng.normal(size=people).repeat(each)
    values = shared + rng.normal(size=people * each)
    outcome = strength * values + rng.normal(size=people * each)
    return where, dict(zip(where, outcome[:, None], strict=True)), values


def test_a_correlation_with_its_interval() -> None:
    where, outcome, values = correlated(11, 7, 1.0, 0)
    measures = {one: {"m": float(value)} for one, value in zip(where, values, strict=True)}
    del measures[where[3]]["m"]
    found = correlation(where, measures, "m", outcome)
    expected = spearmanr(np.delete(values, 3), np.delete(np.concatenate(list(outcome.values())), 3)).statistic
    assert found.rho == pytest.approx(expected)
    assert found.pairs == 76
    assert -1 <= found.low < found.rho < found.high <= 1
    assert correlation(where, measures, "m", outcome) == found
    without = correlation(where, measures, "m", outcome, 0)
    assert (without.rho, np.isnan(without.low), np.isnan(without.high)) == (found.rho, True, True)


def test_the_interval_covers() -> None:
    """Of 20 studies without any relation, the 95 % intervals of most hold 0."""
    held = 0
    for seed in range(20):
        where, outcome, values = correlated(12, 5, 0.0, seed)
        measures = {one: {"m": float(value)} for one, value in zip(where, values, strict=True)}
        found = correlation(where, measures, "m", outcome, 200)
        held += found.low <= 0 <= found.high
    assert held >= 16


def test_a_measure_without_answers() -> None:
    found = correlation([("x", "owl", "ink")], {("x", "owl", "ink"): {}}, "m", {("x", "owl", "ink"): np.ones(1)})
    assert found.pairs == 0
    assert np.isnan([found.rho, found.low, found.high]).all()


def test_halves_are_all_ways_to_split() -> None:
    splits = halves(4)
    assert len(splits) == 6
    assert ([0, 3], [1, 2]) in splits


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_a_perfect_predictor_reaches_the_ceiling(noise: float) -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(400, 1))
    outcome = true + noise * rng.normal(size=(400, 8))
    assert spearman(true[:, 0], outcome.mean(1)) == pytest.approx(ceiling(outcome), abs=0.03)
    assert spearman(true[:, 0], outcome[:, :4].mean(1)) == pytest.approx(ceiling(outcome, half=True), abs=0.03)


def test_one_prompt_has_no_ceiling_and_noise_has_0() -> None:
    assert np.isnan(ceiling(np.ones((5, 1))))
    assert ceiling(np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])) == 0


def test_an_interval_of_more_confidence_is_wider() -> None:
    values = np.random.default_rng(0).normal(size=SHAPE)
    usual, wide = interval(values), interval(values, 0.998)
    assert wide.mean == usual.mean
    assert wide.low < usual.low < usual.high < wide.high
