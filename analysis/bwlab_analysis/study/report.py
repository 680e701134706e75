"""A study's report: one HTML page, the same as Markdown, and figures."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.files import make_folder, write_atomically
from bwlab_analysis.report.html import gallery, heading, paragraph, table
from bwlab_analysis.report.page import FILE, page
from bwlab_analysis.study.results import Results, read_results, write_results
from bwlab_analysis.study.tables import StudyTable, tables_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from bwlab_analysis.study.study import Study

MARKDOWN = "report.md"
FIGURES = "figures"
REPORTS = "reports"
PAIRS_SHOWN = 3


def write_report(study: Study) -> list[Path]:
    """Write `results.sqlite`, `report.md`, `report.html` and `figures/`, and return the first three's paths.

    They are in `reports/<plan>` of the study's folder, as several plans may share their jobs there.

    Raises:
        BwlabError: matplotlib, which draws the figures, is not installed.

    """
    from bwlab_analysis.study.figures import figures_of, png

    out = study.place.out / REPORTS / study.plan.name
    make_folder(out)
    stored = write_results(study, out)
    results = read_results(stored)
    tables = tables_of(results)
    pictures: dict[str, Image] = {**figures_of(results), **grids(study, results.swept)}
    (out / FIGURES).mkdir(exist_ok=True)
    for name, picture in pictures.items():
        write_atomically(out / FIGURES / file_of(name), png(picture))
    write_atomically(out / MARKDOWN, markdown(results, tables, pictures).encode())
    write_atomically(out / FILE, page(title_of(results), html(tables, pictures)).encode())
    return [stored, out / MARKDOWN, out / FILE]


def title_of(results: Results) -> str:
    """Return the plan's title."""
    return str(results.plan["title"])


def markdown(results: Results, tables: list[StudyTable], pictures: Mapping[str, object]) -> str:
    """Return the report as Markdown; its pictures lie beside it."""
    parts = [f"# {title_of(results)}", "", *(shown.markdown() for shown in tables)]
    parts += [f"![{name}]({FIGURES}/{file_of(name)})\n" for name in pictures]
    return "\n".join(parts)


def file_of(figure: str) -> str:
    """Return the name of a figure's file.

    >>> file_of("owl ink"), file_of("a/b, c")
    ('owl-ink.png', 'a-b-c.png')
    """
    return re.sub(r"[^\w.]+", "-", figure) + ".png"


def html(tables: list[StudyTable], pictures: Mapping[str, Image]) -> str:
    """Return the body of the report's page."""
    parts = []
    for shown in tables:
        parts += [heading(shown.title), paragraph(shown.note, note=True), table(shown.heads, shown.rows)]
    return "".join([*parts, heading("Figures and pictures"), f'<div class="large">{gallery(pictures)}</div>'])


def grids(study: Study, swept: Collection[str] = ()) -> dict[str, Image]:
    """Return sheets of pictures: for a few pairs every composition's first prompt, a row each.

    Args:
        study: whose paintings are done.
        swept: compositions to leave out.

    """
    from bwlab_analysis.study.figures import labelled
    from bwlab_analysis.study.paintings import painted

    found: dict[str, Image] = {}
    for place, style in enumerate(study.plan.styles[:PAIRS_SHOWN]):
        identity = study.plan.identities[place % len(study.plan.identities)]
        rows: dict[str, list[Image]] = {}
        for pair in study.work.scores:
            painting = pair.job.needs.get("pictures")
            here = (pair.identity, pair.style) == (identity.name, style.name)
            if here and painting is not None and pair.composition not in swept:
                rows[pair.composition] = painted(painting, study.place.out)[: study.plan.sampling.seeds]
        if rows:
            found[f"{identity.name} {style.name}"] = labelled(rows)
    return found
