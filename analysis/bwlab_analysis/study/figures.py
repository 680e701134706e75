"""The figures of a study, drawn by matplotlib (`pip install bwlab[plots]`)."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bwlab.tables import Table
from bwlab_analysis.report.plots import panels
from bwlab_analysis.study.plan import BASE, CONTROLS, IDENTITY, STYLE
from bwlab_analysis.study.results import Results
from bwlab_analysis.study.statistics import SUBJECT_KINDS, Shares, interval
from bwlab_analysis.study.tables import LOST, profiles, validation

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

MEASURES_IN_FIGURE = 25


def figures_of(results: Results) -> dict[str, Image]:
    """Return the figures for which there are results, by name.

    Raises:
        BwlabError: matplotlib is not installed.

    """
    if BASE not in results.compositions:
        return {}
    shares = Shares(results)
    figures = {"identity and style": as_image(identity_and_style(shares))}
    if (carried := profiles(shares)).rows:
        figures["what each block carries"] = as_image(carried_by_blocks(carried))
    if results.measures:
        for kind in SUBJECT_KINDS:
            figures[LOST[kind].lower()] = as_image(predictions(validation(shares, kind)))
    return figures


def identity_and_style(shares: Shares) -> Figure:
    """Return a figure of the compositions in the plane of identity and style, with their intervals."""
    figure, (axes,) = panels(8, 6)
    results = shares.results
    hidden = {*results.swept, *CONTROLS}
    whole = results.values(BASE, IDENTITY).shape
    for number, name in enumerate(name for name in results.compositions if name not in hidden):
        if results.values(name, IDENTITY).shape != whole:
            continue  # fewer prompts
        x, y = (interval(shares.of(name, kind)) for kind in (IDENTITY, STYLE))
        spread = [[[share.mean - share.low], [share.high - share.mean]] for share in (x, y)]
        marker = "osD^v<>P*X"[number // 10 % 10]
        axes.errorbar(x.mean, y.mean, spread[1], spread[0], fmt=marker, capsize=2, label=name)
    axes.set_xlabel("identity: 0 the base, 1 the true image")
    axes.set_ylabel("style")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def carried_by_blocks(table: Table) -> Figure:
    """Return a bar chart of identity and style by block, with a panel for each sweep."""
    sweeps = list(dict.fromkeys(row[:2] for row in table.rows))
    figure, columns = panels(5 * len(sweeps), 3.5, len(sweeps))
    for panel, sweep in zip(columns, sweeps, strict=True):
        rows = [row for row in table.rows if row[:2] == sweep]
        positions = range(len(rows))
        panel.bar([x - 0.2 for x in positions], [row[3].value for row in rows], 0.4, label="identity")
        panel.bar([x + 0.2 for x in positions], [row[4].value for row in rows], 0.4, label="style")
        panel.set_xticks(list(positions), [row[2].text for row in rows], rotation=45)
        panel.set_title("\n".join(cell.text for cell in sweep), fontsize="small")
        panel.axhline(0, linewidth=0.5, color="grey")
        panel.legend(fontsize=7)
    return figure


def predictions(table: Table) -> Figure:
    """Return a bar chart of held-out rank correlations, the strongest first."""
    rows = [row for row in table.rows if row[1].value is not None][:MEASURES_IN_FIGURE]
    figure, (axes,) = panels(8, 1 + 0.25 * len(rows))
    axes.barh(range(len(rows)), [row[1].value for row in rows])
    axes.set_yticks(range(len(rows)), [row[0].text for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("Spearman's rho with the share lost, held-out pairs")
    axes.set_xlim(-1, 1)
    return figure


def labelled(rows: Mapping[str, Sequence[Image]]) -> Image:
    """Return a sheet of images of one size, row by row, with each row's name at its left; there must be an image."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(13)
    side, width = next(iter(rows.values()))[0].size[0], 8 + math.ceil(max(map(font.getlength, rows)))
    columns = max(len(row) for row in rows.values())
    sheet = Image.new("RGB", (width + columns * side, len(rows) * side), "white")
    draw = ImageDraw.Draw(sheet)
    for line, (name, images) in enumerate(rows.items()):
        draw.text((4, line * side + side // 2), name, "black", font, anchor="lm")
        for column, pixels in enumerate(images):
            sheet.paste(pixels, (width + column * side, line * side))
    return sheet


def png(image: Image) -> bytes:
    """Return an image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def as_image(figure: Figure) -> Image:
    """Return a figure as an image."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    with Image.open(buffer) as drawn:
        return drawn.convert("RGB")
