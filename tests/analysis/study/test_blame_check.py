"""The blamed block against switching off every block in turn, on gains that are known."""

from __future__ import annotations

import numpy as np
import pytest

from bwlab_analysis.study.blame_check import SearchedPair, searched
from bwlab_analysis.study.results import Blamed, PairKey, Results
from bwlab_analysis.study.statistics import Shares
from bwlab_analysis.study.tables import agreement_rows
from tests.analysis.study.synthetic import PAIRS, SEEDS, UNIT, Kept, Told, made, zero

PLAN = {
    "adapters": {"id": {"learns": "identity"}, "style": {"learns": "style"}},
    "sweeps": {
        "one": {"of": "both", "adapter": "id", "mode": "out", "prompts": 1},
        "two": {"of": "both", "adapter": "style", "mode": "out", "prompts": 1},
        "in": {"of": "both", "adapter": "style", "mode": "in", "prompts": 1},
    },
}
BALANCE = {
    "both": 0.5,
    "both: id without in0": 0.4,
    "both: id without mid": 0.7,
    "both: style without mid": 0.6,
    "both: style only mid": 0.9,
}
GAINS = {("a", "in0"): -0.1, ("a", "mid"): 0.2, ("b", "mid"): 0.1}
GOOD = (Blamed("a", "in0", 0.1, 0.9), Blamed("b", "mid", 0.2, 0.5), Blamed("a", "mid", 0.3, 0.05))
BAD = (Blamed("a", "in0", 0.9, None), Blamed("b", "mid", 0.5, None), Blamed("a", "te", 0.95, None))


def results(blame: dict[PairKey, dict[str, tuple[Blamed, ...]]], recommended: dict[PairKey, float | None]) -> Results:
    """Return a study in which gains are `GAINS` for every pair; prompts of sweeps are fewer than those of the whole."""
    kept = {name: Kept(value, value, prompts=2 if name == "both" else 1) for name, value in BALANCE.items()}
    best: dict[PairKey, dict[str, np.ndarray]] = {}
    for where, balance in recommended.items():
        i, s = divmod(PAIRS.index(where[1:]), 3)
        score = np.full((1, SEEDS), zero()[i, s, :1].mean() + UNIT * (balance or 0))
        best[where] = {} if balance is None else {"identity": score, "style": score}
    return made(kept, Told(plan=PLAN, blame=blame, recommended=best))


def everywhere(ways: dict[str, tuple[Blamed, ...]]) -> dict[PairKey, dict[str, tuple[Blamed, ...]]]:
    return {("both", *pair): ways for pair in PAIRS}


def test_gains_and_orders() -> None:
    found = searched(Shares(results(everywhere({"good": GOOD, "bad": BAD}), {})))
    assert len(found) == len(PAIRS)
    for one in found:
        assert one.gains == pytest.approx(GAINS)
        assert one.best == pytest.approx(0.2)
        assert one.recommended is None
        assert one.ways == {
            "good, gain": (("a", "mid"), ("b", "mid"), ("a", "in0")),
            "good, gain - cost": (("a", "mid"), ("b", "mid"), ("a", "in0")),
            "bad, gain": (("a", "in0"), ("b", "mid")),
        }


def test_costs_can_turn_the_order() -> None:
    blamed = (Blamed("a", "mid", 0.5, 0.6), Blamed("b", "mid", 0.3, -0.2), Blamed("a", "in0", 0.1, 0.0))
    (way,) = {one.ways["way, gain - cost"] for one in searched(Shares(results(everywhere({"way": blamed}), {})))}
    assert way == (("b", "mid"), ("a", "in0"), ("a", "mid")), "what its own adapter gains by going does not count"


def test_regret_and_agreement() -> None:
    pair = SearchedPair("owl", GAINS, {"good": (("a", "mid"),), "bad": (("a", "in0"), ("b", "mid"))}, None)
    assert [pair.regret("good", tried) for tried in (1, 2)] == [0, 0]
    assert pair.regret("bad", 1) == pytest.approx(0.2), "nothing switched off gains 0"
    assert pair.regret("bad", 2) == pytest.approx(0.1)
    assert pair.regret("silent", 3) == pytest.approx(0.2)
    assert [pair.agrees(way) for way in ("good", "bad", "silent")] == [True, False, False]
    assert SearchedPair("owl", {("a", "mid"): -0.5}, {}, None).best == 0


def test_rows() -> None:
    blame = everywhere({"good": GOOD})
    blame["both", "owl", "ink"] = {"bad": BAD}
    chosen = {("both", *pair): 0.8 for pair in PAIRS[:3]} | {("both", *PAIRS[3]): None}
    rows = {row[0].text: row[1:] for row in agreement_rows(Shares(results(blame, chosen)))}
    assert set(rows) == {"good, gain", "good, gain - cost", "bad, gain", "bwlab analyze recommend"}
    agrees, chance, first, *_ = (cell.value for cell in rows["good, gain"])
    assert agrees == pytest.approx(14 / 15), "of one pair it says nothing"
    assert chance == pytest.approx(1 / 3)
    assert first == pytest.approx(0.2 / 15)
    bad = [cell.value for cell in rows["bad, gain"]]
    assert bad[0] == 0
    assert bad[3] == pytest.approx(0.2 - 0.1 / 15)
    recommended = rows["bwlab analyze recommend"]
    assert [cell.text for cell in recommended[:2]] == ["-", "-"]
    # By identity: three pairs of the owl are 0.1 better than the best block, one of the crab is left as it is.
    assert recommended[2].value == pytest.approx((0.2 - 0.3) / 2 + 0.2 / 2)


def test_without_an_exhaustive_search_there_is_nothing_to_tell() -> None:
    assert list(agreement_rows(Shares(made({"both": Kept(0.5, 0.5)})))) == []
