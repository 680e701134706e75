"""The search for a composition, on a made-up world where the best one is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from diffusers import UNet2DConditionModel

from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError
from bwlab_analysis.activations.probe import scheme_of
from bwlab_analysis.fidelity.conditions import Condition
from bwlab_analysis.fidelity.recommend import PairScales, Retention, Search, WeightedBlock, search_scales
from bwlab_analysis.fidelity.scores import ConditionScores
from bwlab_analysis.measures import Interval
from bwlab_analysis.report.documents import recommend_document
from bwlab_analysis.report.fidelity import present_trials
from tests.conftest import tiny_unet

LEADING = ("who", "how", "what")
BLOCKS = {"identity": ("in1", "mid", "out1"), "style": ("in0", "out1", "out3")}


def scores(who: float, how: float, what: float = 1.0) -> ConditionScores:
    values = dict(zip(LEADING, (who, how, what), strict=True))
    return ConditionScores(
        None, "made up", {k: Interval(v, v, v) for k, v in values.items()}, {k: (v,) for k, v in values.items()}, ()
    )


def painted(condition: Condition) -> ConditionScores:
    """Return the style's out1 takes the identity away; everything else helps its own adapter."""
    assert isinstance(condition.style, dict)
    assert isinstance(condition.identity, dict)
    harm = condition.style["out1"]
    style = sum(condition.style[block] for block in ("in0", "out3")) / 2
    identity = sum(condition.identity[block] for block in BLOCKS["identity"]) / 3
    return scores(0.2 + 0.6 * identity * (1 - 0.9 * harm), 0.1 + 0.7 * style)


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return tiny_unet()


def search() -> Search:
    return Search(painted, scores(0.2, 0.1), scores(0.8, 0.1), scores(0.2, 0.8), LEADING, 1)


def blame() -> list[WeightedBlock]:
    return [
        WeightedBlock("style", "out3", 0.1),
        WeightedBlock("style", "out1", 0.4),
        WeightedBlock("identity", "mid", 0.2),
    ]


def test_it_finds_the_block_to_turn_down(unet: UNet2DConditionModel) -> None:
    trials = search_scales(search(), scheme_of(unet), BLOCKS, blame(), budget=16)
    best = trials[0]
    assert best.composition.scales("style") == {"in0": 1, "out1": 0, "out3": 1}
    assert best.composition.scales("identity") == dict.fromkeys(BLOCKS["identity"], 1)
    assert best.retention.harmonic_mean == pytest.approx(1)
    assert [trial.retention.harmonic_mean for trial in trials] == sorted(
        (t.retention.harmonic_mean for t in trials), reverse=True
    )
    assert len({trial.composition for trial in trials}) == len(trials) <= 16


@pytest.mark.parametrize("budget", [1, 2, 5])
def test_the_budget_is_kept_and_both_whole_are_always_tried(unet: UNet2DConditionModel, budget: int) -> None:
    trials = search_scales(search(), scheme_of(unet), BLOCKS, blame(), budget)
    assert len(trials) == budget
    assert "both whole" in {trial.reason for trial in trials}


def test_a_spec_says_what_differs() -> None:
    whole = PairScales((("in1", 1.0), ("mid", 1.0)), (("in0", 1.0), ("out1", 0.0), ("out3", 1.0)))
    assert whole.spec("identity") == "*=1"
    assert whole.spec("style") == "out1=0, *=1"
    assert whole.with_scale("identity", "mid", 0.5).spec("identity") in {"mid=0.5, *=1", "in1=1, *=0.5"}


def test_layers_of_text_encoders_stay_on_in_parts_and_the_spec_says_so(unet: UNet2DConditionModel) -> None:
    blocks = {"identity": BLOCKS["identity"], "style": (*BLOCKS["style"], "in1", "te")}
    trials = search_scales(search(), scheme_of(unet), blocks, [], budget=16)
    parts = [trial for trial in trials if trial.reason.startswith("style in ")]
    assert parts
    for trial in parts:
        assert trial.composition.scales("style")["te"] == 1
        spec = parse_spec(trial.composition.spec("style"), scheme_of(unet), kind="scale").by_block()
        assert {block: spec[block] for block in blocks["style"]} == trial.composition.scales("style")


def test_what_is_retained() -> None:
    found = search().retention(scores(0.5, 0.8, 0.9))
    assert (found.identity, found.style, found.text) == pytest.approx((0.5, 1, 0.9))
    assert Retention(0.5, 2, 1).harmonic_mean == pytest.approx(0.75)
    assert Retention(-0.1, 1, 1).harmonic_mean == 0


def test_an_adapter_that_does_nothing_is_told() -> None:
    useless = Search(painted, scores(0.2, 0.1), scores(0.2, 0.1), scores(0.2, 0.8), LEADING, 1)
    with pytest.raises(BwlabError, match="retains of the identity adapter"):
        useless.retention(scores(0.5, 0.5))


def test_no_budget_is_an_error(unet: UNet2DConditionModel) -> None:
    with pytest.raises(BwlabError, match="--budget 0"):
        search_scales(search(), scheme_of(unet), BLOCKS, blame(), 0)


def test_a_lower_scale_overall_is_tried(unet: UNet2DConditionModel) -> None:
    def overdone(condition: Condition) -> ConditionScores:
        """Return scores of a world in which the style drowns the identity wherever it is above 0.5."""
        assert isinstance(condition.style, dict)
        assert isinstance(condition.identity, dict)
        style = sum(condition.style[block] for block in BLOCKS["style"]) / 3
        identity = sum(condition.identity[block] for block in BLOCKS["identity"]) / 3
        return scores(0.2 + 0.6 * identity * min(1, 2 - 2 * style), 0.1 + 0.7 * min(1, 2 * style))

    found = search_scales(replace(search(), score=overdone), scheme_of(unet), BLOCKS, blame(), budget=16)
    assert found[0].reason == "style at 0.5 overall"
    assert found[0].composition.spec("style") == "*=0.5"
    assert found[0].retention.harmonic_mean == pytest.approx(1)
    overall = {trial.reason for trial in found if trial.reason.endswith("overall")}
    assert overall == {
        "style at 0.5 overall",
        "identity at 0.5 overall",
        "style at 0.75 overall",
        "identity at 0.75 overall",
    }


@pytest.mark.parametrize(("who", "recommended"), [(0.7, True), (0.25, False), (0.2, False)])
def test_a_failure_is_not_recommended(unet: UNet2DConditionModel, who: float, recommended: bool) -> None:
    def fixed(condition: Condition) -> ConditionScores:
        """Return scores that no composition changes."""
        return scores(who, 0.7)

    trials = search_scales(replace(search(), score=fixed), scheme_of(unet), BLOCKS, blame(), budget=3)
    shown = present_trials(trials, scheme_of(unet))
    assert (shown.title == "Recommended composition") == recommended
    document = recommend_document({}, trials, scheme_of(unet))
    assert document["recommended"] is recommended
    assert ("No composition is recommended" in str(document["verdict"])) != recommended
