"""The gate of the benchmark: areas under the curve, margins, and the shipped images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bwlab.benchmark import load_benchmark, margins
from bwlab_emoji.benchmark_quality import (
    LEAST_IDENTITY,
    Auc,
    Scorer,
    StyleGate,
    area,
    gate_table,
    identity_auc,
    write_gates,
)


def read_gates(file: Path) -> list[StyleGate]:
    return [
        StyleGate(**{**entry, "identity": Auc(**entry["identity"]), "alone": Auc(**entry["alone"])})
        for entry in json.loads(file.read_text(encoding="utf-8"))
    ]


def test_an_area_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    right, wrong = rng.integers(0, 5, 13), rng.integers(0, 4, 17)
    pairs = [(a > b) + 0.5 * (a == b) for a in right for b in wrong]
    assert area(right, wrong) == pytest.approx(np.mean(pairs))


def test_margins_ignore_what_all_identities_share() -> None:
    cosines = np.random.default_rng(0).standard_normal((7, 11))
    found = margins(cosines)
    assert found.shape == (7, 11)
    assert found.mean(1) == pytest.approx(0, abs=1e-12)
    assert found.std(1, ddof=1) == pytest.approx(1)
    assert margins(3 * cosines + 2) == pytest.approx(found)


def test_the_right_identity_is_compared_with_the_other_images() -> None:
    own = [4, 0, 2]
    known = np.zeros((3, 5))
    known[[0, 1, 2], own] = 1
    assert identity_auc(known, own).value == 1
    assert identity_auc(np.zeros((3, 5)), own).value == 0.5
    assert identity_auc(-known, own).value == 0


def test_the_shipped_styles_pass_by_identity() -> None:
    benchmark = load_benchmark()
    scorer = Scorer(benchmark)
    for style in benchmark.style_names("held-out"):
        names = benchmark.identities_in(style)
        own = [benchmark.identities.index(name) for name in names]
        found = identity_auc(scorer.margins([benchmark.image(name, style) for name in names]), own)
        assert found.value >= LEAST_IDENTITY, style
        assert found.low <= found.value <= found.high


def test_a_style_needs_both_areas(tmp_path: Path) -> None:
    high, low = Auc(0.99, 0.97, 1.0), Auc(0.8, 0.7, 0.9)
    gates = [
        StyleGate(str(place), "held-out", 42, *areas, 0.1, 0.5, 0.7)
        for place, areas in enumerate(((high, high), (low, high), (high, low)))
    ]
    assert [gate.passed for gate in gates] == [True, False, False]
    write_gates(gates, tmp_path / "gate.json")
    assert read_gates(tmp_path / "gate.json") == gates
    rows = gate_table(gates).rows
    assert [row[-1].text for row in rows] == ["passed", "not passed", "not passed"]
    assert rows[0][2].line == "0.990 (0.97 to 1.00)"


def test_the_page_and_the_roles_follow_the_gate() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    gates, page = read_gates(docs / "benchmark-gate.json"), (docs / "benchmark.md").read_text(encoding="utf-8")
    styles = {style.style: style.role for style in load_benchmark().styles if style.role != "train"}
    assert styles == {gate.style: "held-out" if gate.passed else "unscored" for gate in gates}
    for row in gate_table(gates).rows:
        assert f"| {' | '.join(cell.line for cell in row)} |" in page
