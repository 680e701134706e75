"""docs/coming-from-kohya.md is made from the tables that the translation uses."""

from __future__ import annotations

from pathlib import Path

from docs.foreign import parts, with_parts

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "coming-from-kohya.md").read_text(encoding="utf-8")


def test_the_tables_are_fresh() -> None:
    assert with_parts(TEXT) == TEXT, "run `make docs`"


def test_the_tables_are_there() -> None:
    tables = parts()
    assert "| `--network_dim` | the rank of the blocks: --blocks" in tables["options of kohya"]
    assert "| `linear`" not in tables["keys of ai-toolkit"]
    assert "`network.linear`" in tables["keys of ai-toolkit"]
    assert all(table.count("\n") > 4 for table in tables.values())
