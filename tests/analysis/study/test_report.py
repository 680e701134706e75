"""The report: Markdown, one HTML page that a browser shows without errors, and figures."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from bwlab.tables import markdown_table
from bwlab_analysis.report.html import page
from bwlab_analysis.study.figures import figures_of
from bwlab_analysis.study.plan import Subject
from bwlab_analysis.study.report import file_of, grids, html, markdown, one_of_each_prompt, report_folder, title_of
from bwlab_analysis.study.results import read_results
from bwlab_analysis.study.tables import tables_of
from docs.study import tables_page
from tests.analysis.report.test_page import CHECK, CHROMIUM
from tests.analysis.study.finished import Finished
from tests.analysis.study.synthetic import save
from tests.analysis.study.test_tables import results

VOID = {"meta", "link", "img", "br"}


class Balanced(HTMLParser):
    """Tells elements that are closed in another order than they were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_report_of_a_study(finished: Finished) -> None:
    stored, text, html_page = finished.reports
    assert [path.name for path in finished.reports] == ["results.sqlite", "report.md", "report.html"]
    found = text.read_text(encoding="utf-8")
    assert found.startswith("# A tiny study\n")
    tables = tables_of(read_results(stored))
    assert all(markdown_table(shown) in found for shown in tables)
    linked = re.findall(r"!\[([^]]+)\]\((.+)\)", found)
    assert [name for name, _ in linked][-1] == "fox ink"
    assert {path for _, path in linked} == {f"figures/{path.name}" for path in (text.parent / "figures").iterdir()}
    for path in (text.parent / "figures").iterdir():
        with Image.open(path) as image:
            image.verify()
    whole = html_page.read_text(encoding="utf-8")
    assert "<title>A tiny study</title>" in whole
    assert whole.count("<figure>") == len(linked)
    assert not re.search(r"""(src|href)=["'](?!data:)""", whole)


def test_a_report_on_another_base_or_other_subjects_keeps_the_first(finished: Finished) -> None:
    plan, reports = finished.study.plan, finished.out / "reports"
    first, second = reports / plan.name, reports / f"{plan.name}-2"
    more = replace(plan, identities=(*plan.identities, Subject("owl", "owl")), title="more of the same")
    assert report_folder(reports, plan) == report_folder(reports, more) == first
    for other in (replace(plan, base="sd14"), replace(plan, styles=(Subject("ink", "ink", "mine"),))):
        assert report_folder(reports, other) == second
    assert report_folder(reports / "new", replace(plan, base="sd14")) == reports / "new" / plan.name


def test_the_page_is_well_formed() -> None:
    parser = Balanced()
    parser.feed(page("A < title", html(tables_of(results()), {"a < b": Image.new("RGB", (8, 8))})))
    assert (parser.open, parser.wrong) == ([], [])


def test_grids_leave_sweeps_out(finished: Finished) -> None:
    (whole,), (image,) = grids(finished.study).items(), grids(finished.study, {"base", "joint"}).values()
    name, larger = whole
    assert name == "fox ink"
    assert larger.height - image.height == 2 * 64
    compositions = {pair.composition for pair in finished.study.expanded.scores if pair.job.needs}
    assert larger.height == 64 * (len(compositions) + 1), "the true image has a row of its own"


def test_rows_of_grids_go_through_the_prompts() -> None:
    images = [Image.new("RGB", (1, 1), (number, 0, 0)) for number in range(10)]
    shown = one_of_each_prompt(images, 2)
    assert [image.getpixel((0, 0))[0] for image in shown] == [0, 2, 4, 6, 8, 1, 3, 5]  # type: ignore[index]
    assert one_of_each_prompt(images[:3], 1) == images[:3]


def test_markdown_without_images() -> None:
    found = markdown(results(), tables_of(results()), {})
    assert found.startswith("# A study of nothing\n\n### Fidelity\n")
    assert title_of(results()) == "A study of nothing"


@pytest.mark.parametrize(
    ("name", "file"), [("owl ink", "owl-ink.png"), ("лиса в/чернилах", "лиса-в-чернилах.png"), ("a: b", "a-b.png")]
)
def test_figures_have_names_for_files(name: str, file: str) -> None:
    assert file_of(name) == file


def test_a_page_of_committed_results(tmp_path: Path) -> None:
    files = [save(results(), tmp_path / "one.sqlite"), save(results(), tmp_path / "two.sqlite")]
    found = tables_page(files)
    assert re.findall(r"^#+ .*", found, re.MULTILINE) == [
        "# Tables of the study",
        *["## A study of nothing", *(f"### {shown.title}" for shown in tables_of(results()))] * 2,
    ]
    assert all(markdown_table(shown) in found for shown in tables_of(results()))
    assert "[two.sqlite](two.sqlite)" in found


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on PATH")
def test_a_browser_shows_it_without_errors_and_sorts(tmp_path: Path) -> None:
    sort = """
<script>
window.addEventListener("load", () => {
  const table = document.querySelector("table");
  const names = () => [...table.querySelectorAll("tbody tr")].map((row) => row.cells[0].textContent);
  const before = names();
  table.querySelectorAll("th")[1].click();
  document.body.dataset.names = JSON.stringify([before, names()]);
});
</script>
"""
    body = page("A study", html(tables_of(results()), figures_of(results())))
    path = tmp_path / "report.html"
    path.write_text(body.replace("<style>", sort + CHECK + "<style>", 1), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,2000", "--virtual-time-budget=4000"]
    command = [str(CHROMIUM), *flags, "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    names = re.search(r'data-names="(.*?)"', done.stdout)
    assert title is not None
    assert names is not None
    seen = json.loads(title[1])
    assert seen["wrong"] == []
    assert seen["wide"] <= 1280
    before, after = json.loads(names[1].replace("&quot;", '"'))
    assert sorted(before) == sorted(after)
    order = {"true image": 1.0, "id": 0.8, "base": 0.0}
    assert [name for name in after if name in order] in (list(order), list(reversed(order)))
