"""Sweeps: one block of an adapter at a time."""

from __future__ import annotations

import pytest

from bwlab_analysis.study.expand import swept
from bwlab_analysis.study.plan import CompositionPlan, SweepPlan, swept_name


@pytest.mark.parametrize(("mode", "scale", "word"), [("out", "mid=0, *=1", "without"), ("in", "mid=1, *=0", "only")])
def test_one_block(mode: str, scale: str, word: str) -> None:
    sweep = SweepPlan("both", "b", mode, 2)
    of = CompositionPlan({"a": "0.5", "b": "1"}, "ties", 0.5, 3)
    assert list(swept(sweep, of, ["mid"])) == [
        (f"both: b {word} mid", CompositionPlan({"a": "0.5", "b": scale}, "ties", 0.5, 3, 2))
    ]
    assert swept_name(sweep, "") == f"both: b {word} "
