"""Captions as they are shown."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from bwlab.dataset.examples import CaptionRule, normalized_tags, split_tags

CAPTION = "a, b, c, d"


def shown(rule: CaptionRule, times: int = 400, caption: str = CAPTION) -> list[str]:
    return [rule.sample(caption, 0, torch.Generator().manual_seed(seed)) for seed in range(times)]


def test_without_a_rule_captions_stay() -> None:
    assert set(shown(CaptionRule(), 5)) == {CAPTION}


def test_shuffling_keeps_the_first_tags_and_all_others() -> None:
    found = Counter(shown(CaptionRule(shuffle=True, keep=1), 600))
    assert len(found) == 6
    assert all(caption.startswith("a, ") and sorted(split_tags(caption)) == list("abcd") for caption in found)
    assert min(found.values()) > 60


def test_tags_are_dropped_as_often_as_asked() -> None:
    found = shown(CaptionRule(keep=1, tag_dropout=0.25), 800)
    assert all(caption.startswith("a") for caption in found)
    share = sum(len(split_tags(caption)) - 1 for caption in found) / (3 * 800)
    assert abs(share - 0.75) < 0.04


def test_captions_are_dropped_as_often_as_asked() -> None:
    found = Counter(shown(CaptionRule(dropout=0.25, keep=4), 800))
    assert set(found) == {"", CAPTION}
    assert abs(found[""] / 800 - 0.25) < 0.05


def test_whole_epochs_may_go_without_captions() -> None:
    rule = CaptionRule(dropout_epochs=3)
    assert [rule.sample("a", epoch, torch.Generator()) for epoch in range(7)] == ["a", "a", "", "a", "a", "", "a"]


@given(
    caption=st.lists(st.sampled_from("abc"), max_size=3).map(", ".join),
    rule=st.builds(
        CaptionRule,
        st.booleans(),
        st.integers(0, 4),
        st.sampled_from([0.0, 0.5, 1.0]),
        st.sampled_from([0.0, 0.5, 1.0]),
        st.integers(0, 3),
    ),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 5),
)
def test_every_sample_is_among_all_samples(caption: str, rule: CaptionRule, seed: int, epoch: int) -> None:
    told = rule.all_samples(caption)
    found = rule.sample(caption, epoch, torch.Generator().manual_seed(seed))
    assert told is None or found in told
    assert normalized_tags(found) == found


def test_too_many_samples_are_none() -> None:
    assert CaptionRule(shuffle=True).all_samples(CAPTION) is None
    assert CaptionRule(tag_dropout=0.1).all_samples(CAPTION) is None
    assert CaptionRule(shuffle=True, keep=3, dropout=0.1).all_samples(CAPTION) == frozenset({CAPTION, ""})
