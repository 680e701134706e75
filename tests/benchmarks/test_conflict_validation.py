"""What measured conflict is worth: the page's tables are those of the committed numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.conflict_validation import Pairs, correlation, read_pairs, tables_of
from bwlab.tables import markdown_table
from bwlab_analysis.study.statistics import ceiling

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("name", ["conflict-validation.json", "conflict-validation-10-steps.json"])
def test_the_page_has_the_tables_of_the_numbers(name: str) -> None:
    page = (DOCS / "analysis-in-a-base.md").read_text(encoding="utf-8")
    for table in tables_of(read_pairs(DOCS / name)):
        without_title = markdown_table(replace(table, title="")).strip()
        assert without_title in page


def made(noise: float, pairs: int = 400) -> Pairs:
    """Return pairs with a true cost each, seen through noise of prompts, and a predictor that sees it as well."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(pairs, 1))
    costs = {
        ("identity", "target"): true + noise * rng.normal(size=(pairs, 8)),
        ("identity", "scored"): true + np.zeros((pairs, 8)),
        ("identity", "latents"): rng.normal(size=(pairs, 8)),
    }
    return Pairs(tuple((f"c{row}", "fox", "ink") for row in range(pairs)), costs)


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_a_perfect_predictor_reaches_the_ceiling(noise: float) -> None:
    pairs = made(noise)
    target = pairs.costs["identity", "target"]
    assert correlation(pairs, "identity", "scored") == pytest.approx(ceiling(target), abs=0.03)
    assert correlation(pairs, "identity", "unseen") == pytest.approx(ceiling(target, half=True), abs=0.03)
    assert abs(correlation(pairs, "identity", "latents")) < 0.15
    assert ceiling(made(2.0).costs["identity", "target"]) < ceiling(made(0.5).costs["identity", "target"]) < 1
