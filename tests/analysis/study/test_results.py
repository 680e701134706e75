"""Results: stored and read back, and what is asked of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bwlab_analysis.study import JOB_KINDS
from bwlab_analysis.study.plan import TRUE
from bwlab_analysis.study.results import DIGITS, Blamed, Results, measures_of, read_results
from tests.analysis.study.finished import Finished
from tests.analysis.study.synthetic import IDENTITIES, SEEDS, STYLES, Kept, Told, made, save


def assert_same(one: Results, other: Results) -> None:
    for name in ("about", "alone", "measures", "blame", "cpu_seconds"):
        assert getattr(one, name) == getattr(other, name), name
    for name in ("scores", "recommended"):
        a, b = getattr(one, name), getattr(other, name)
        assert list(a) == list(b)
        for where in a:
            assert list(a[where]) == list(b[where])
            assert all(np.array_equal(a[where][key], b[where][key]) for key in a[where]), where


def test_what_is_stored_is_read(tmp_path: Path) -> None:
    where = ("both", "crab", "ink")
    told = Told(
        plan={"sweeps": {"out": {"of": "both", "adapter": "id", "mode": "out", "prompts": 1}}},
        alone={"both": ("id", "style")},
        measures={where: {"weights cosine": 0.1, "other": 2.0}},
        blame={where: {"activations": (Blamed("a", "mid", 0.5, None), Blamed("b", "in0", 0.25, 0.125))}},
        recommended={where: {"identity": np.full((1, SEEDS), 0.5)}, ("both", "owl", "ink"): {}},
    )
    results = made({"both": Kept(0.5, 0.25), "both: id without mid": Kept(0.1, 0.1, prompts=1)}, told)
    found = read_results(save(results, tmp_path / "results.sqlite"))
    assert_same(found, results)
    assert found.identities == IDENTITIES
    assert found.styles == STYLES
    assert found.compositions == ("base", "both", "both: id without mid", TRUE)
    assert found.swept == {"both: id without mid"}
    ((sweep, blocks),) = found.sweeps
    assert (sweep.of, sweep.prompts, blocks) == ("both", 1, {"mid": "both: id without mid"})


def test_values() -> None:
    results = made({"both": Kept(0.5, 0.25), "one": Kept(0, 0, prompts=1)}, true=False)
    assert results.values("both", "identity").shape == (5, 3, 2, SEEDS)
    assert results.values("both", "identity", 1).shape == (5, 3, 1, SEEDS)
    assert results.values("one", "style").shape == (5, 3, 1, SEEDS)
    assert results.values("identity's images", "style").shape == (5, 3, 1, 1), "however many each has"
    assert results.scored("both", "text")
    assert not results.scored("both", "embedding_distance")
    assert not results.scored("neither", "text")
    with pytest.raises(KeyError):
        results.values("neither", "text")


def test_a_number_that_is_none_is_no_answer(tmp_path: Path) -> None:
    where = ("both", "crab", "ink")
    results = made({}, Told(measures={where: {"broken": float("nan"), "whole": 1.0}}))
    assert read_results(save(results, tmp_path / "results.sqlite")).measures == {where: {"whole": 1.0}}


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_results(tmp_path / "results.sqlite")


def test_a_studys_results(finished: Finished) -> None:
    results = read_results(finished.reports[0])
    assert results.plan["title"] == "A tiny study"
    assert list(results.plan["sweeps"]) == ["without", "style-without", "only"], "in the plan's order"
    assert results.identities == ("fox",)
    assert results.alone == {"id + style": ("id", "style"), "id + half style": ("id", "style at mid=0.5, *=1")}
    assert set(results.cpu_seconds) == set(JOB_KINDS)
    assert all(seconds > 0 for seconds in results.cpu_seconds.values())
    job = finished.job("score", "id + half style")
    told = job.result(finished.out)["values"]
    assert isinstance(told, dict)
    found = results.scores["id + half style", "fox", "ink"]
    assert set(found) == set(told)
    assert found["identity"].shape == (2, 2)
    assert found["embedding_distance"].shape == (1, 2)
    assert found["identity"].ravel() == pytest.approx(told["identity"], abs=10**-DIGITS)
    assert set(results.blame["id + style", "fox", "ink"]) == {"activations", "losses"}
    assert ("id + half style", "fox", "ink") not in results.blame
    assert list(results.recommended) == [("id + style", "fox", "ink")]


def test_measures_by_name(finished: Finished) -> None:
    result = finished.job("measure", "id + style").result(finished.out)
    measures = measures_of(json.loads(json.dumps(result)))
    for name in ("weights cosine", "images retention_a", "prompts effect", "images interaction, mean of blocks"):
        assert np.isfinite(measures[name][0]), name
    assert measures["images effect"][0] == pytest.approx(
        (measures["images effect_a"][0] + measures["images effect_b"][0]) / 2
    )
    _, random, spread = measures["weights cosine"]
    assert random is not None
    assert spread is not None
    assert measures["loss harm"][1:] == (None, None)
    assert read_results(finished.reports[0]).measures["id + style", "fox", "ink"] == {
        name: one[0] for name, one in measures.items()
    }


def test_a_loss_that_was_not_lowered_has_no_share() -> None:
    losses = {"base": 1.0, "own": 1.5, "both": 2.0, "random_harm": []}
    other = {"base": 2.0, "own": 1.0, "both": 1.25, "random_harm": []}
    nothing: dict[str, dict[str, float]] = {"prediction": {}, "blocks": {}}
    result = {"weights": {}, "images": nothing, "prompts": nothing, "losses": {"identity": losses, "style": other}}
    found = {name: value for name, (value, _, _) in measures_of(result).items()}
    assert found == {
        "loss harm, identity": 0.5,
        "loss harm, style": 0.25,
        "loss gain lost, style": 0.25,
        "loss harm": 0.375,
    }
