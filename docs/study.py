"""`python -m docs.study`: writes docs/study/tables.md from the results of studies that lie beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bwlab.tables import markdown_table
from bwlab_analysis.study.report import title_of
from bwlab_analysis.study.results import read_results
from bwlab_analysis.study.tables import tables_of

FOLDER = Path(__file__).resolve().parent / "study"
TABLES = "tables.md"
HEAD = "# Tables of the study\n\nWritten by `python -m docs.study` from the results beside this page.\n"


def stored(folder: Path = FOLDER) -> list[Path]:
    """Return the committed results, `*.sqlite`, by name."""
    return sorted(folder.glob("*.sqlite"))


def tables_page(files: Sequence[Path]) -> str:
    """Return the page: a section with its plan's title for each file of results."""
    return "\n".join([HEAD, *map(section, files)])


def section(file: Path) -> str:
    """Return all tables of one file of results, as `bwlab study` reports them."""
    results = read_results(file)
    tables = map(markdown_table, tables_of(results))
    return "\n".join([f"## {title_of(results)}\n\nFrom [{file.name}]({file.name}).\n", *tables])


def main() -> None:
    """Rewrite the page; without results there is none."""
    files = stored()
    if files:
        (FOLDER / TABLES).write_text(tables_page(files), encoding="utf-8")


if __name__ == "__main__":
    main()
