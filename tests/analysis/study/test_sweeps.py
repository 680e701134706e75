"""Sweeps: one block of an adapter at a time."""

from __future__ import annotations

from typing import Literal

import pytest

from bwlab_analysis.study.compositions import swept
from bwlab_analysis.study.plan import CompositionPlan, SweepPlan, swept_name


@pytest.mark.parametrize(("mode", "scale", "word"), [("out", "mid=0, *=1", "without"), ("in", "mid=1, *=0", "only")])
def test_one_block(mode: Literal["out", "in"], scale: str, word: str) -> None:
    sweep = SweepPlan(of="both", adapter="b", mode=mode, prompts=2)
    of = CompositionPlan(use={"a": "0.5", "b": "1"}, merge="ties", density=0.5, rank=3)
    assert list(swept(sweep, of, ["mid"])) == [
        (f"both: b {word} mid", of.replace(use={"a": "0.5", "b": scale}, prompts=2))
    ]
    assert swept_name(sweep, "") == f"both: b {word} "
