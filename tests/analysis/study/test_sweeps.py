"""Sweeps: one block of an adapter at a time."""

from __future__ import annotations

from typing import Literal

import pytest

from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import parse_spec
from bwlab_analysis.study.compositions import swept
from bwlab_analysis.study.plan import CompositionPlan, SweepPlan, swept_name


@pytest.mark.parametrize(("mode", "scale", "word"), [("out", "mid=0, *=1", "without"), ("in", "mid=1, *=0", "only")])
def test_one_block(scheme: BlockScheme, mode: Literal["out", "in"], scale: str, word: str) -> None:
    sweep = SweepPlan(of="both", adapter="b", mode=mode, prompts=2)
    of = CompositionPlan(use={"a": "0.5", "b": "1"}, merge="ties", density=0.5, rank=3)
    assert list(swept(sweep, of, ["mid"], scheme)) == [
        (f"both: b {word} mid", of.replace(use={"a": "0.5", "b": scale}, prompts=2))
    ]
    assert swept_name(sweep, "") == f"both: b {word} "


@pytest.mark.parametrize("scale", ["0.5", "out2=0.25, *=1", "mid=0.5, te=2, *=0.75"])
def test_blocks_that_are_on_keep_the_scale_of_the_composition(scheme: BlockScheme, scale: str) -> None:
    whole = parse_spec(scale, scheme, kind="scale", default=1.0).values
    of = CompositionPlan(use={"a": "1", "b": scale})
    modes: tuple[Literal["out", "in"], ...] = ("out", "in")
    for mode in modes:
        sweep = SweepPlan(of="both", adapter="b", mode=mode)
        ((_, found),) = swept(sweep, of, ["mid"], scheme)
        values = parse_spec(found.use["b"], scheme, kind="scale", default=1.0).values
        assert values == {
            module.path: whole[module.path] if (module.block == "mid") == (mode == "in") else 0.0
            for module in scheme.modules
        }
        assert found.use["a"] == "1"
