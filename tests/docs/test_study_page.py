"""docs/study/tables.md is what the committed results say."""

from __future__ import annotations

import pytest

from docs.study import FOLDER, TABLES, stored, tables_page


def test_the_results_are_there() -> None:
    assert {file.name for file in stored()} >= {"conflict.sqlite", "fusion.sqlite", "paper.sqlite", "reversal.sqlite"}


@pytest.mark.slow
def test_the_tables_are_those_of_the_results() -> None:
    page = FOLDER / TABLES
    if not page.is_file():
        pytest.fail("docs/study/tables.md is missing: run `python -m docs.study`")
    assert page.read_text(encoding="utf-8") == tables_page(stored()), "run `make docs`"
