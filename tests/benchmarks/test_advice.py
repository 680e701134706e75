"""What following the advice gains: the tables of made-up pairs whose gains are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.advice import SEEDS, mean_gain, read_pairs, tables_of
from bwlab.tables import markdown_table

STUDY = Path(__file__).resolve().parents[2] / "docs" / "study"
PROMPTS = 4


def row(identity: str, style: str, *, advised: bool, best: float, usual: float) -> dict[str, object]:
    """Return a pair as it is stored; each composition has the same scores in all images, between 0 and 1."""

    def scores(of_identity: float, of_style: float) -> list[list[float]]:
        return [[number] * (PROMPTS * SEEDS) for number in (of_identity, of_style, 0.5)]

    return {
        "identity": identity,
        "style": style,
        "advised": advised,
        "scales": ["identity *=1", "style *=0.7"],
        "proof": {"images": 32, "mean": 0.1, "low": 0.05, "high": 0.15} if advised else None,
        "seconds": 300.0,
        "scorers": ["identity", "style", "text"],
        "references": [1.0, 1.0],
        "values": {
            "base": scores(0.0, 0.0),
            "sum": scores(0.5, 0.5),
            "best": scores(best, best),
            "usual": scores(usual, usual),
        },
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [
        row("owl", "ink", advised=True, best=1.0, usual=0.5),
        row("frog", "monotone", advised=False, best=0.25, usual=0.5),
    ]
    path = tmp_path / "advice.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def balance(share: float) -> float:
    """The harmonic mean of identity, style and an unchanged text."""
    return 3 / (2 / share + 1)


def test_the_page_has_the_tables_of_the_scores() -> None:
    pairs = read_pairs(STUDY / "advice.jsonl")
    assert len({pair.identity for pair in pairs}) == 12
    page = (STUDY / "advice.md").read_text(encoding="utf-8")
    for table in tables_of(pairs):
        assert markdown_table(table).strip() in page


def test_advice_that_is_not_given_gains_nothing(file: Path) -> None:
    owl, frog = read_pairs(file)
    assert owl.gain("advice").mean == pytest.approx(balance(1.0) - balance(0.5))
    assert owl.gain("advice").low == pytest.approx(owl.gain("advice").high)  # all images are equal
    assert frog.gain("advice").mean == 0
    assert frog.gain("best").mean == pytest.approx(balance(0.25) - balance(0.5))
    assert mean_gain([owl, frog], "advice").mean == pytest.approx((balance(1.0) - balance(0.5)) / 2)
    assert mean_gain([owl, frog], "usual").mean == 0


def test_the_tables_count_pairs_that_lose(file: Path) -> None:
    summary, each = tables_of(read_pairs(file))
    lines = {(one[0].text.partition(":")[0], one[1].text): [cell.text for cell in one[2:]] for one in summary.rows}
    assert lines["the advice followed", "all"][0] == "2"
    assert lines["the advice followed", "those advised to change"][0] == "1"
    assert lines["the advice followed", "all"][2] == "0"
    assert lines["the best of the search, proved or not", "all"][2] == "1"
    assert [[cell.text for cell in one[:3]] for one in each.rows] == [
        ["owl", "ink", "change"],
        ["frog", "monotone", "leave"],
    ]
