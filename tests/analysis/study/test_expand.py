"""From a plan to its jobs: how many, which are shared, and what is alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from bwlab.blocks.scheme import BlockScheme
from bwlab.errors import BwlabError
from bwlab_analysis.study import GENERATE, MEASURE, MERGE, SCORE, TRAIN
from bwlab_analysis.study.expand import ExpandedPlan, expand
from bwlab_analysis.study.jobs import GenerateSettings, Job, MeasureSettings, MergeSettings, TrainSettings, with_needs
from bwlab_analysis.study.plan import (
    CONTROLS,
    AdapterPlan,
    CompositionPlan,
    MeasurePlan,
    SamplingPlan,
    StudyPlan,
    Subject,
    SweepPlan,
)

Settings = TypeVar("Settings")

BOTH = CompositionPlan(use={"id": "1", "style": "1"})
ADAPTERS = {
    "id": AdapterPlan("identity", settings={"adapter.blocks": "in0=2, mid=4, te=2"}),
    "style": AdapterPlan("style", settings={"adapter.blocks": "all=4"}),
}


def plan(compositions: Mapping[str, CompositionPlan], **changes: Any) -> StudyPlan:
    """Two identities, three styles."""
    made = StudyPlan(
        name="study",
        title="a study",
        base="emoji",
        clip=None,
        identities=(Subject("fox", "fox"), Subject("owl", "owl")),
        styles=(Subject("ink", "ink"), Subject("monotone", "monotone"), Subject("emojione", "emojione")),
        adapters=ADAPTERS,
        compositions=compositions,
        sweeps={},
        claims={},
        measures=MeasurePlan(),
        sampling=SamplingPlan(),
    )
    return replace(made, **changes)


def settings(job: Job, kind: type[Settings]) -> Settings:
    """Return the settings of a job, which are of this kind."""
    assert isinstance(job.settings, kind)
    return job.settings


def of_kind(work: ExpandedPlan, kind: str) -> list[Job]:
    return [job for job in with_needs(work.jobs()) if job.kind == kind]


def test_two_compositions_share_their_trainings(scheme: BlockScheme) -> None:
    half = CompositionPlan(use={"style": "0.5", "id": "1"})
    work = expand(plan({"both": BOTH, "half": half}), scheme, "scorer")
    assert {job.name for job in of_kind(work, TRAIN)} == {
        *("id, fox", "id, owl"),
        *("style, ink", "style, monotone", "style, emojione"),
    }
    assert len(of_kind(work, GENERATE)) == 2 * 6
    assert len(of_kind(work, SCORE)) == (2 + len(CONTROLS)) * 6
    assert len(work.scores) == (2 + len(CONTROLS)) * 6
    assert work.measures == work.recommended == ()
    seeds = [settings(job, TrainSettings).seed for job in of_kind(work, TRAIN)]
    assert len(set(seeds)) == len(seeds)


def test_compositions_that_do_the_same_are_one_job(scheme: BlockScheme) -> None:
    work = expand(plan({"both": BOTH, "again": BOTH}), scheme, "scorer")
    assert len(of_kind(work, GENERATE)) == 6
    assert len(work.scores) == (2 + len(CONTROLS)) * 6
    # Also where a name differs: the folder of a job has its name.
    assert len({pair.job.folder(Path()) for pair in work.scores if pair.composition in ("both", "again")}) == 6


def test_an_adapter_of_both_or_orthogonal_to_another_is_one_for_each_pair(scheme: BlockScheme) -> None:
    adapters = {
        **ADAPTERS,
        "joint": AdapterPlan("both"),
        "ortho": AdapterPlan("style", orthogonal_to="id"),
    }
    uses = {"joint": CompositionPlan(use={"joint": "1"}), "ortho": CompositionPlan(use={"id": "1", "ortho": "1"})}
    work = expand(plan(uses, adapters=adapters), scheme, "scorer")
    trainings = of_kind(work, TRAIN)
    assert len(trainings) == 6 + 2 + 6
    (ortho,) = (job for job in trainings if job.name == "ortho, owl x ink")
    assert ortho.needs["orthogonal_to"].name == "id, owl"
    assert [subject.name for subject in settings(ortho, TrainSettings).learns] == ["ink"]
    (joint,) = (job for job in trainings if job.name == "joint, fox x ink")
    assert [(subject.kind, subject.name) for subject in settings(joint, TrainSettings).learns] == [
        ("identity", "fox"),
        ("style", "ink"),
    ]


def test_merges_come_between_trainings_and_images(scheme: BlockScheme) -> None:
    merged = BOTH.replace(merge="ties", density=0.5, rank=3)
    work = expand(plan({"merged": merged}), scheme, "scorer")
    assert len(of_kind(work, MERGE)) == 6
    generated = of_kind(work, GENERATE)[0]
    assert settings(generated, GenerateSettings).scales == ("1",)
    (merge,) = generated.needs.values()
    assert [job.name for job in merge.needs.values()] == ["id, fox", "style, ink"]
    assert settings(merge, MergeSettings).scales == ("1", "1")


def test_a_sweep_is_a_composition_for_each_block_of_its_adapter(scheme: BlockScheme) -> None:
    sweeps = {
        "out": SweepPlan(of="both", adapter="id", mode="out", prompts=1),
        "in": SweepPlan(of="both", adapter="style", mode="in"),
    }
    work = expand(plan({"both": BOTH}, sweeps=sweeps), scheme, "scorer")
    names = {pair.composition for pair in work.scores} - {"both", *CONTROLS}
    blocks = ("in0", "in1", "in2", "in3", "mid", "out0", "out1", "out2", "out3")
    assert names == {"both: id without in0", "both: id without mid"} | {f"both: style only {one}" for one in blocks}
    generated = {job.name: job for job in of_kind(work, GENERATE)}
    assert settings(generated["both: id without mid, fox x ink"], GenerateSettings).scales == ("mid=0, *=1", "1")
    assert settings(generated["both: style only mid, fox x ink"], GenerateSettings).scales == ("1", "mid=1, *=0")


def test_what_is_measured_is_generated_alone_too(scheme: BlockScheme) -> None:
    compositions = {
        "both": BOTH,
        "half": CompositionPlan(use={"style": "0.5", "id": "1"}, prompts=1),
        "other": BOTH,
        "id": CompositionPlan(use={"id": "1"}, prompts=1),
    }
    measures = MeasurePlan(of=("both", "h*"), blame=("both",), recommend=("b*",))
    work = expand(plan(compositions, measures=measures), scheme, "scorer")
    assert work.alone == {"both": ("id", "style"), "half": ("id", "style at 0.5")}
    assert [pair.composition for pair in work.measures] == ["both"] * 6 + ["half"] * 6
    assert {pair.composition for pair in work.recommended} == {"both"}
    scored = {pair.composition: pair.job.needs["images"] for pair in work.scores if pair.composition not in CONTROLS}
    assert set(scored) == {"both", "half", "other", "id", "style", "style at 0.5"}
    assert settings(scored["id"], GenerateSettings).prompts == settings(scored["both"], GenerateSettings).prompts
    half = next(pair.job for pair in work.measures if pair.composition == "half")
    assert settings(half, MeasureSettings).scales == ("1", "0.5")
    assert [half.needs[role].name for role in "ab"] == ["id, fox", "style, ink"]
    blamed = {pair.composition: settings(pair.job, MeasureSettings).blame for pair in work.measures}
    assert blamed == {"both": True, "half": False}
    assert {job.kind for job in with_needs([half])} == {TRAIN, MEASURE}


def test_sweeps_can_be_measured(scheme: BlockScheme) -> None:
    sweeps = {"out": SweepPlan(of="both", adapter="id", mode="out", prompts=1)}
    measures = MeasurePlan(of=("both: *",))
    work = expand(plan({"both": BOTH}, sweeps=sweeps, measures=measures), scheme, "scorer")
    assert work.alone["both: id without mid"] == ("id at mid=0, *=1", "style")


@pytest.mark.parametrize(
    "composition",
    [
        CompositionPlan(use={"id": "1"}),
        CompositionPlan(use={"id": "1", "other": "1"}),
        CompositionPlan(use={"id": "1", "style": "1"}, merge="ties"),
        CompositionPlan(use={"id": "1", "style": "1", "other": "1"}),
    ],
)
def test_only_a_pair_side_by_side_is_measured(composition: CompositionPlan, scheme: BlockScheme) -> None:
    adapters = {**ADAPTERS, "other": AdapterPlan("identity")}
    asked = plan({"x": composition}, adapters=adapters, measures=MeasurePlan(of=("x",)))
    with pytest.raises(BwlabError, match="measures of x: not one identity's and one style's adapter side by side"):
        expand(asked, scheme, "scorer")


def test_prompts_have_the_words(scheme: BlockScheme) -> None:
    sampling = SamplingPlan(prompts=("{style}, {identity}", "a {{{identity}}}"))
    fox = Subject("fox", "a sks fox")
    both = {"all": BOTH, "first": BOTH.replace(prompts=1)}
    work = expand(plan(both, identities=(fox,), sampling=sampling), scheme, "scorer")
    generated = {job.name: settings(job, GenerateSettings).prompts for job in of_kind(work, GENERATE)}
    assert generated["all, fox x ink"] == ("ink, a sks fox", "a {a sks fox}")
    assert generated["first, fox x ink"] == ("ink, a sks fox",)


def test_a_changed_image_changes_what_is_learned_of_it(scheme: BlockScheme, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("us")
    asked = plan({"both": BOTH}, identities=(Subject("us", "us", str(tmp_path)), Subject("fox", "fox")))

    def keys() -> dict[str, str]:
        return {f"{job.kind} {job.name}": job.key for job in with_needs(expand(asked, scheme, "scorer").jobs())}

    before = keys()
    assert keys() == before
    (tmp_path / "one.txt").write_text("all of us")
    after = keys()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if "us" in name.split()[-1] or ", us x" in name}
    assert "train id, us" in changed


def test_there_is_no_true_image_of_ones_own(scheme: BlockScheme, tmp_path: Path) -> None:
    asked = plan({"both": BOTH}, styles=(Subject("us", "us", str(tmp_path)),))
    assert {pair.composition for pair in expand(asked, scheme, "scorer").scores} == {"both", *CONTROLS[1:]}


def test_other_scorers_score_anew_and_generate_nothing_anew(scheme: BlockScheme) -> None:
    one, other = (expand(plan({"both": BOTH}), scheme, name) for name in ("a", "b"))
    assert {job.key for job in of_kind(one, GENERATE)} == {job.key for job in of_kind(other, GENERATE)}
    assert not {job.key for job in of_kind(one, SCORE)} & {job.key for job in of_kind(other, SCORE)}
