"""Links between the pages lead to files and headings that exist, and pages are wrapped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# Made from the code or by a study, with tables and sentences of any length.
GENERATED = {"cli.md", "settings.md", "real-adapters.md", "tables.md", "CHANGELOG.md"}
WIDTH = 100


def prose(page: Path) -> list[str]:
    """Return the lines of a page outside code blocks."""
    lines, in_code = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif not in_code:
            lines.append(line)
    return lines


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = [line.lstrip("#").strip().lower() for line in prose(page) if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall("\n".join(prose(page))):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in GENERATED], ids=lambda page: page.name)
def test_pages_are_wrapped(page: Path) -> None:
    unbreakable = ("|", "!", "[", "<")  # tables, images, references
    text = [line for line in prose(page) if not line.startswith("    ")]  # without indented code
    assert [line for line in text if len(line) > WIDTH and not line.lstrip().startswith(unbreakable)] == []
