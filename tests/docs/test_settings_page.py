"""docs/settings.md is what the models of the settings say today."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bwlab.errors import BwlabError
from bwlab.training.settings import read_config
from docs.settings import keys, settings_page

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
ROWS = {
    cells[0]: cells[1:]
    for row in re.findall(r"^\| (`.*) \|$", TEXT, re.MULTILINE)
    if (cells := [cell.strip("` ") for cell in re.split(r"(?<!\\) \| ", row)])
}


def test_the_page_is_fresh() -> None:
    assert settings_page() == TEXT, "run `make docs`"


def test_the_page_has_every_setting() -> None:
    assert {"base", "adapter.blocks", "training.lr", "data.folder"} <= set(keys())
    assert list(ROWS) == list(keys())


def test_every_setting_says_what_it_is_for() -> None:
    assert [key for key, cells in ROWS.items() if not cells[-1].endswith(".")] == []


@pytest.mark.parametrize("key", sorted(ROWS))
def test_a_bound_is_the_one_that_is_checked(key: str) -> None:
    kind, _, limits, _ = ROWS[key]
    for word, limit in re.findall(r"(at least|at most|above|below) (\S+?)(?:,|$)", limits):
        outside = {"at least": -1, "at most": 1}.get(word, 0)
        value = int(limit) + outside if kind == "a whole number" else float(limit) + outside
        with pytest.raises(BwlabError, match="out of range"):
            read_config(sets=[f"{key}={value}"])
