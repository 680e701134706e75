"""Compositions are painted, scored and profiled block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from bwlab.errors import BwlabError
from bwlab_analysis.fidelity.conditions import BASE, BOTH, IDENTITY, four_conditions, knock_ins, knock_outs
from bwlab_analysis.fidelity.scores import (
    HARMONIC,
    ConditionScores,
    Judge,
    References,
    Sampling,
    block_profiles,
    controls,
    measure_fidelity,
)
from bwlab_analysis.measures import FidelityScorer
from tests.analysis.activations.conftest import World
from tests.analysis.activations.conftest import world as world

SAMPLING = Sampling(("a fox", "ink"), (1, 2, 3), steps=2, cfg=1.0)


def brightness(generated: Sequence[Image.Image], references: Sequence[Any]) -> list[float]:
    return [image.convert("L").resize((1, 1)).getpixel((0, 0)) / 255 + 0.01 for image in generated]  # type: ignore[operator]


def scorer(kind: str) -> FidelityScorer:
    return FidelityScorer(f"bright {kind}", kind, "mean brightness", lambda: brightness)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def judge() -> Judge:
    image = Image.new("RGB", (32, 32), "white")
    return Judge([scorer(kind) for kind in ("identity", "style", "text")], References((image,), (image,)))


@pytest.fixture(scope="module")
def scores(world: World, judge: Judge) -> list[ConditionScores]:
    conditions = [*four_conditions(), *knock_ins(world.b, world.b), *knock_outs(world.b, world.b)]
    told: list[tuple[int, int, str]] = []
    found = measure_fidelity(
        world.pipe, world.b, world.b, conditions, SAMPLING, judge, lambda *report: told.append(report)
    )
    assert [name for _, _, name in told] == [condition.name for condition in conditions]
    return found


def test_every_composition_has_its_images_and_scores(scores: list[ConditionScores]) -> None:
    assert [one.name for one in scores[:4]] == [BASE, IDENTITY, "style alone", BOTH]
    for one in scores:
        assert len(one.images) == 6
        assert set(one.scores) == {"bright identity", "bright style", "bright text", HARMONIC}
        assert one.scores["bright style"].mean == pytest.approx(sum(one.values["bright style"]) / 6)
        # All three say the same here, and so does their harmonic mean.
        assert one.values[HARMONIC] == pytest.approx(one.values["bright text"])
    base, alone = scores[0], scores[1]
    assert base.images[0].tobytes() != alone.images[0].tobytes()


def test_blocks_are_profiled_against_the_base_and_against_both(scores: list[ConditionScores]) -> None:
    profiles = block_profiles(scores, seeds=3)
    assert [(one.adapter, one.block) for one in profiles] == [
        ("identity", "in0"),
        ("identity", "out3"),
        ("style", "in0"),
        ("style", "out3"),
    ]
    named = {one.name: one for one in scores}
    alone, base = named["identity in in0 only"], named[BASE]
    expected = alone.scores["bright text"].mean - base.scores["bright text"].mean
    assert profiles[0].knocked_in["bright text"].mean == pytest.approx(expected)
    out = named["both, style off in out3"]
    expected = named[BOTH].scores["bright text"].mean - out.scores["bright text"].mean
    assert profiles[3].knocked_out["bright text"].mean == pytest.approx(expected)


def test_controls_are_scored_too(judge: Judge) -> None:
    found = {one.name: one for one in controls(judge, ("a fox",))}
    assert set(found) == {"identity references", "style references", "uniform noise"}
    assert found["style references"].scores["bright style"].mean == pytest.approx(1.01)
    assert found["uniform noise"].scores["bright style"].mean == pytest.approx(0.5, abs=0.1)


def test_what_is_missing_is_told(judge: Judge) -> None:
    with pytest.raises(BwlabError, match="no scorer of text"):
        Judge([scorer("identity"), scorer("style")], judge.references)
    with pytest.raises(BwlabError, match="fidelity of the style"):
        References((Image.new("RGB", (3, 3)),), ())
