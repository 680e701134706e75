"""The report of a study: an HTML page, the same as Markdown, and figures."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.errors import BrokenFileError
from bwlab.files import make_folder, remove_unfinished, write_atomically
from bwlab.tables import Table, markdown_table
from bwlab_analysis.report.gallery import gallery
from bwlab_analysis.report.html import heading, page, table_html
from bwlab_analysis.report.page import FILE
from bwlab_analysis.study.jobs import ScoreSettings
from bwlab_analysis.study.plan import TRUE
from bwlab_analysis.study.results import RESULTS, Results, read_results, write_results
from bwlab_analysis.study.tables import tables_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from bwlab_analysis.study.plan import StudyPlan
    from bwlab_analysis.study.study import Study

MARKDOWN = "report.md"
FIGURES = "figures"
REPORTS = "reports"
PAIRS_IN_GRIDS = 4
IMAGES_IN_ROWS = 8


def write_report(study: Study) -> list[Path]:
    """Write `results.sqlite`, `report.md`, `report.html` and `figures/`, and return the first three's paths.

    The files are in `reports/<plan>` of the study's folder, because several plans may share their jobs there. Where
    the report of another base or of other subjects is there, a number is added: `reports/<plan>-2`.

    Raises:
        BwlabError: matplotlib, which draws the figures, is not installed.

    """
    from bwlab_analysis.study.figures import figures_of, png

    out = report_folder(study.location.out / REPORTS, study.plan)
    make_folder(out / FIGURES)
    remove_unfinished(out)
    remove_unfinished(out / FIGURES)
    stored = write_results(study, out)
    results = read_results(stored)
    tables = tables_of(results)
    images: dict[str, Image] = {**figures_of(results), **grids(study, results.swept)}
    for name, image in images.items():
        write_atomically(out / FIGURES / file_of(name), png(image))
    write_atomically(out / MARKDOWN, markdown(results, tables, images).encode())
    write_atomically(out / FILE, page(title_of(results), html(tables, images)).encode())
    return [stored, out / MARKDOWN, out / FILE]


def report_folder(reports: Path, plan: StudyPlan) -> Path:
    """Return the folder of a plan's report: a new one, or that of an earlier report on the same base and subjects."""
    numbered = (reports / f"{plan.name}-{number}" for number in count(2))
    folders = chain([reports / plan.name], numbered)
    return next(folder for folder in folders if not _is_of_others(folder / RESULTS, plan))


def _is_of_others(path: Path, plan: StudyPlan) -> bool:
    """Return whether results are of another base, or of an identity or a style that the plan lacks."""
    try:
        stored = read_results(path).plan
    except (FileNotFoundError, BrokenFileError):
        return False
    subjects = [asdict(subject) for subject in (*plan.identities, *plan.styles)]
    known = [*stored["identities"], *stored["styles"]]
    return bool(stored["base"] != plan.base) or not all(subject in subjects for subject in known)


def title_of(results: Results) -> str:
    """Return the plan's title."""
    return str(results.plan["title"])


def markdown(results: Results, tables: list[Table], images: Mapping[str, object]) -> str:
    """Return the report as Markdown; its images lie beside it."""
    parts = [f"# {title_of(results)}", "", *map(markdown_table, tables)]
    parts += [f"![{name}]({FIGURES}/{file_of(name)})\n" for name in images]
    return "\n".join(parts)


def file_of(figure: str) -> str:
    """Return the name of a figure's file.

    >>> file_of("owl ink"), file_of("a/b, c")
    ('owl-ink.png', 'a-b-c.png')
    """
    return re.sub(r"[^\w.]+", "-", figure) + ".png"


def html(tables: list[Table], images: Mapping[str, Image]) -> str:
    """Return the body of the report's page."""
    parts = [table_html(table, level=2) for table in tables]
    return "".join([*parts, heading("Figures and images"), f'<div class="large">{gallery(images)}</div>'])


def one_of_each_prompt(images: Sequence[Image], seeds: int) -> list[Image]:
    """Return the first image of each prompt, then the second of each, and so on, at most `IMAGES_IN_ROWS`.

    Args:
        images: prompt by prompt, seed by seed.
        seeds: number of images of each prompt.

    """
    in_turn = [image for seed in range(seeds) for image in images[seed::seeds]]
    return in_turn[:IMAGES_IN_ROWS]


def grids(study: Study, swept: Collection[str] = ()) -> dict[str, Image]:
    """Return grids of images by name: for a few pairs, a row with images of every composition, of all prompts in turn.

    The first row has the true image, where the benchmark has it.

    Args:
        study: a study whose images are generated.
        swept: compositions to leave out.

    """
    from bwlab_analysis.study.figures import labelled
    from bwlab_analysis.study.subjects import generated_images, true_image

    plan, out = study.plan, study.location.out
    sheets: dict[str, Image] = {}
    for index, style in enumerate(plan.styles[:PAIRS_IN_GRIDS]):
        identity = plan.identities[index % len(plan.identities)]
        rows: dict[str, list[Image]] = {}
        true: Image | None = None
        for pair in study.expanded.scores:
            generation = pair.job.needs.get("images")
            is_shown = (pair.identity, pair.style) == (identity.name, style.name) and pair.composition not in swept
            if is_shown and generation is not None:
                rows[pair.composition] = one_of_each_prompt(generated_images(generation, out), plan.sampling.seeds)
            elif is_shown and pair.composition == TRUE and isinstance(pair.job.settings, ScoreSettings):
                true = true_image(pair.job.settings.judge.identity, pair.job.settings.judge.style)
        if rows:
            first = {} if true is None else {TRUE: [true.resize(next(iter(rows.values()))[0].size)]}
            sheets[f"{identity.name} {style.name}"] = labelled({**first, **rows})
    return sheets
