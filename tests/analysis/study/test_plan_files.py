"""The TOML of plans: laid over each other, found by name or path."""

from __future__ import annotations

from pathlib import Path

import pytest

from bwlab.errors import BwlabError
from bwlab_analysis.study.plan_file import overlaid, read_plan, read_table, shipped_plans


def test_plans_that_ship() -> None:
    papers = {"paper", "paper-dit", "paper-joint", "paper-sd"}
    assert set(shipped_plans()) == {"conflict", "fusion", "reversal", "tune", *papers}


def test_a_plan_lies_over_the_one_it_extends() -> None:
    paper, larger = read_table("paper"), read_table("paper-sd")
    assert larger["title"] != paper["title"]
    assert larger["base"] == paper["base"]
    assert larger["adapters"]["id-all"] != paper["adapters"]["id-all"]
    assert larger["compositions"]["id-all"] == paper["compositions"]["id-all"]
    assert larger["claims"].keys() - paper["claims"].keys() == {
        "block-wise scales are better than block-wise training",
        "block-wise scales are better than whole adapters",
        "upper is better than training both jointly",
    }


def test_plans_that_share_their_jobs_have_the_same_settings() -> None:
    """Trainings and images of one plan are those of the others only if every setting is equal."""
    paper, fusion, conflict, reversal = (read_table(name) for name in ("paper", "fusion", "conflict", "reversal"))
    joint = read_table("paper-joint")
    assert set(joint["data"]["styles"]) < set(paper["data"]["styles"])
    assert joint["data"]["identities"] == paper["data"]["identities"]
    for other in (fusion, conflict, reversal, joint):
        assert other["sampling"] == paper["sampling"]
        assert other["defaults"] == paper["defaults"]
        for name in set(other["adapters"]) & set(paper["adapters"]):
            assert other["adapters"][name] == paper["adapters"][name]
    for other in (fusion, reversal):
        assert other["data"] == paper["data"]
    for other in (fusion, reversal, joint):
        for name in set(other["compositions"]) & set(paper["compositions"]):
            assert other["compositions"][name] == paper["compositions"][name]


def test_the_transformers_plan_is_like_the_unets() -> None:
    """Its numbers stand side by side with those of the plan `paper`."""
    paper, own = read_table("paper"), read_table("paper-dit")
    assert own["data"] == paper["data"]
    assert own["sampling"] == paper["sampling"]
    assert own["defaults"] == paper["defaults"]
    for name in set(own["adapters"]) & set(paper["adapters"]) - {"style-middle"}:
        assert own["adapters"][name] == paper["adapters"][name]
    assert read_plan("paper", base="emoji-dit").title == own["title"]
    assert read_plan("paper", base="emoji").title == paper["title"]
    assert read_plan("paper-dit").base == "emoji-dit"


def test_overlaid_keeps_what_it_is_given() -> None:
    below = {"a": {"x": 1, "y": {"z": 2}}, "b": 3}
    above = {"a": {"y": {"z": 5, "w": {"none": True}}}, "b": {"c": 4}, "d": {"none": True}, "e": {"f": {"none": True}}}
    assert overlaid(below, above) == {"a": {"x": 1, "y": {"z": 5}}, "b": {"c": 4}, "e": {}}
    assert below == {"a": {"x": 1, "y": {"z": 2}}, "b": 3}
    assert overlaid(below, {}) == below


def test_files_and_folders_are_found_beside_the_plan(tmp_path: Path) -> None:
    (tmp_path / "plans").mkdir()
    (tmp_path / "below.toml").write_text(
        'title = "below"\n[data]\nidentities = [{name = "us", folder = "us"}, "fox"]\n'
    )
    above = tmp_path / "plans" / "above.toml"
    above.write_text('extends = "../below.toml"\n[data]\nstyles = [{name = "ink", folder = "ink", words = "in ink"}]\n')
    table = read_table(str(above))
    assert table["title"] == "below"
    assert table["data"]["identities"] == [{"name": "us", "folder": str(tmp_path / "us")}, "fox"]
    assert table["data"]["styles"][0]["folder"] == str(tmp_path / "plans" / "ink")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = ", "Invalid value"),
        ('extends = "papr"', "Did you mean paper"),
        ('extends = "plan.toml"', "it extends itself"),
        ('extends = "other.toml"', "it extends itself"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "plan.toml").write_text(text)
    (tmp_path / "other.toml").write_text('extends = "plan.toml"')
    with pytest.raises(BwlabError, match=message):
        read_table(str(tmp_path / "plan.toml"))


def test_an_unknown_plan_is_told_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        BwlabError, match=r"no such plan or file\. Did you mean paper\? Choose from conflict, fusion, paper"
    ):
        read_table("papper")
    with pytest.raises(BwlabError, match="Is a directory"):
        read_table(str(tmp_path))
