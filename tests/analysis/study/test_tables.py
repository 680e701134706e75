"""The tables of a study, on results whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bwlab.tables import Cell, Table, columns_of, markdown_table
from bwlab_analysis.measures import Interval
from bwlab_analysis.study.results import Results
from bwlab_analysis.study.statistics import Shares, losses
from bwlab_analysis.study.tables import (
    claims,
    claims_by_style,
    fidelity,
    interval_cell,
    profiles,
    tables_of,
    validation,
    verdict,
)
from tests.analysis.study.synthetic import IDENTITIES, PAIRS, SEEDS, STYLES, Kept, Told, made

PLAN: dict[str, Any] = {
    "adapters": {"id": {"learns": "identity"}, "style": {"learns": "style"}},
    "sweeps": {
        "in": {"of": "id", "adapter": "id", "mode": "in", "prompts": 1},
        "out": {"of": "both", "adapter": "id", "mode": "out", "prompts": 1},
    },
    "claims": {
        "worse is better": {"better": "half", "worse": "both", "by": "style"},
        "all is better": {"better": "both", "worse": "half", "by": "balance"},
        "one prompt": {"better": "id: id only mid", "worse": "half", "by": "identity"},
        "nobody knows": {"better": "noisy", "worse": "half", "by": "identity"},
    },
}


def results(true: bool = True) -> Results:
    """Compositions of known shares, with measures that tell all, nothing, or the opposite of what is lost."""
    shape = (len(IDENTITIES), len(STYLES), 2, SEEDS)
    rng = np.random.default_rng(0)
    kept = {
        "both": Kept(np.broadcast_to(rng.uniform(0.5, 0.7, (5, 3, 1, 1)), shape), 0.75),
        "id": Kept(0.8, 0.0),
        "style": Kept(0.0, 0.9),
        "half": Kept(0.4, 0.25),
        "noisy": Kept(0.4 + rng.normal(0, 0.3, shape), 0.25),
        "id: id only mid": Kept(0.3, -0.001, prompts=1),
        "both: id without mid": Kept(0.6, 0.6, prompts=1),
        "both: id without in0": Kept(0.7, 0.6, prompts=1),
    }
    alone = {"both": ("id", "style")}
    outcome = losses(Shares(made(kept, Told(alone=alone))), alone, "identity")
    measures = {
        ("both", *pair): {
            "silent": 1.0,
            "noise": float(rng.normal()),
            "harm": float(outcome["both", *pair].mean()),
            "worth": -float(outcome["both", *pair].mean()),
        }
        for pair in PAIRS
    }
    return made(kept, Told(PLAN, alone, measures), true)


def column(shown: Table, place: int) -> dict[str, Cell]:
    return {row[0].text: row[place] for row in shown.rows}


def test_fidelity() -> None:
    shown = fidelity(Shares(results()))
    assert list(column(shown, 0)) == ["base", "both", "id", "style", "half", "noisy", "true image"]
    assert [cell.text for cell in next(row for row in shown.rows if row[0].text == "half")] == [
        *("half", "0.40", "0.25", "0.31", "0.25", "0.125", "-", "-"),
    ]
    top = next(row for row in shown.rows if row[0].text == "true image")
    assert [cell.text for cell in top][1:4] == ["1.00", "1.00", "-"]
    assert column(shown, 1)["base"].value == pytest.approx(0, abs=1e-12)
    assert all(cell.note.startswith("(") for cell in column(shown, 1).values())


def test_without_true_images_the_learned_ones_are_1() -> None:
    shown = fidelity(Shares(results(true=False)))
    assert column(shown, 1)["identity's images"].text == "1.00"
    assert column(shown, 2)["style's images"].text == "1.00"
    assert column(shown, 5)["half"].text == "-"


def test_claims() -> None:
    shown = claims(Shares(results()))
    assert list(column(shown, 0)) == list(PLAN["claims"]), "in the plan's order"
    assert {name: cell.text for name, cell in column(shown, 5).items()} == {
        "worse is better": "reversed",
        "all is better": "holds",
        "one prompt": "reversed",
        "nobody knows": "open",
    }
    assert column(shown, 2)["worse is better"].value == pytest.approx(0.25 - 0.75)
    assert column(shown, 2)["one prompt"].value == pytest.approx(0.3 - 0.4)


@pytest.mark.parametrize(("low", "high", "says"), [(0.1, 0.2, "holds"), (-0.2, -0.1, "reversed"), (0.0, 0.1, "open")])
def test_verdicts(low: float, high: float, says: str) -> None:
    assert verdict(Interval((low + high) / 2, low, high)) == says


def test_profiles() -> None:
    rows = [[cell.text for cell in row] for row in profiles(Shares(results())).rows]
    assert rows == [
        ["id", "id only", "mid", "0.30", "0.00"],
        ["both", "id without", "mid", "0.60", "0.60"],
        ["both", "id without", "in0", "0.70", "0.60"],
    ]


def test_validation() -> None:
    shown = validation(Shares(results()), "identity")
    rhos = {name: cell.value for name, cell in column(shown, 1).items()}
    assert next(iter(rhos)) == "ceiling"
    assert list(rhos)[3:] == ["noise", "silent"], "the strongest first, what says nothing last"
    assert set(rhos) == {"ceiling", "harm", "worth", "noise", "silent"}
    assert [cell.text for cell in shown.rows[0]] == ["ceiling", "1.00", "-", "1.00", "-"], "no loss differs by prompt"
    assert rhos["harm"] == pytest.approx(1)
    assert rhos["worth"] == pytest.approx(-1)
    assert column(shown, 1)["silent"].text == column(shown, 4)["silent"].text == "-"
    assert column(shown, 2)["harm"].text == "-", "two pairs to choose on have no ranks to speak of"
    assert column(shown, 3)["harm"].text == "1.00"
    assert "6 held-out pairs" in shown.note
    assert "2 pairs for choosing, and all 15" in shown.note
    assert "share of identity that is lost" in shown.note


def test_the_loss_of_style_is_another_table() -> None:
    """Every pair loses as much style, so that a measure of the loss of identity says nothing about it."""
    shown = validation(Shares(results()), "style")
    assert abs(column(shown, 3)["harm"].value or 0.0) < 0.6
    assert shown.title == "What predicts the loss of style"


def test_verdicts_are_corrected_for_the_number_of_claims() -> None:
    """A difference that is above 0 on its own says nothing among twenty."""
    shape = (len(IDENTITIES), len(STYLES), 2, SEEDS)
    identities = np.array([0.6, 0.7, 0.39, 0.39, 0.62])[:, None, None, None]
    kept = {"better": Kept(np.broadcast_to(identities, shape), 0.5), "worse": Kept(0.4, 0.5)}
    one = {"better": "better", "worse": "worse", "by": "identity"}
    for count, says in ((1, "holds"), (20, "open")):
        plan = {**PLAN, "sweeps": {}, "claims": {f"claim {index}": one for index in range(count)}}
        shown = claims(Shares(made(kept, Told(plan))))
        assert {cell.text for cell in column(shown, 5).values()} == {says}
        assert {cell.text for cell in column(shown, 4).values()} == {"9 of 15"}


def test_few_identities_and_seeds_decide_nothing() -> None:
    """Three identities with three seeds have intervals that are too narrow."""
    of_all = results()
    few = {pair: scores for pair, scores in of_all.scores.items() if pair[1] in IDENTITIES[:3]}
    shown = claims(Shares(replace(of_all, scores=few)))
    assert {cell.text for cell in column(shown, 5).values()} == {"too few"}
    assert "With fewer than 12 identities x seeds, intervals are too narrow" in shown.note


def test_claims_by_style() -> None:
    """The difference is 0.1 in the first style, 0.2 in the second, 0.3 in the third."""
    shape = (len(IDENTITIES), len(STYLES), 2, SEEDS)
    styles = np.array([0.5, 0.6, 0.7])[None, :, None, None]
    kept = {"better": Kept(np.broadcast_to(styles, shape), 0.5), "worse": Kept(0.4, 0.5)}
    plan = {**PLAN, "sweeps": {}, "claims": {"it is": {"better": "better", "worse": "worse", "by": "identity"}}}
    shown = claims_by_style(Shares(made(kept, Told(plan))))
    assert [column.head for column in shown.columns] == ["claim", *STYLES]
    assert [cell.text for cell in shown.rows[0]] == ["it is", "0.100", "0.200", "0.300"]


def test_all_tables_and_those_without_the_base() -> None:
    whole = results()
    titles = [shown.title for shown in tables_of(whole)]
    claimed = ["Claims", "Claims by style"]
    predicted = ["What predicts the loss of identity", "What predicts the loss of style"]
    assert titles == ["Fidelity", *claimed, "What each block carries", *predicted, "CPU time"]
    costs = [[cell.text for cell in row] for row in tables_of(whole)[-1].rows]
    assert costs == [["train", "1.5"], ["generate", "0.5"], ["in all", "2.0"]]
    without = {where: found for where, found in whole.scores.items() if where[0] != "base"}
    bare = Results(whole.about, {}, without, {}, {}, {}, whole.cpu_seconds)
    assert [shown.title for shown in tables_of(bare)] == ["CPU time"]


def test_markdown() -> None:
    row = (Cell("x | y"), interval_cell(Interval(-0.001, -0.2, 0.3)))
    assert markdown_table(Table(columns_of("a|b", "c"), (row,), title="A title", note="A note.")) == (
        "### A title\n\nA note.\n\n| a\\|b | c |\n|---|---|\n| x \\| y | 0.00 (-0.20 .. 0.30) |\n"
    )
