"""The images of a generate job, kept side by side in one PNG file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bwlab_analysis.study.jobs import Job

if TYPE_CHECKING:
    from PIL import Image

SHEET = "images.png"


def in_rows(images: list[Image.Image], columns: int) -> Image.Image:
    """Return images of one size side by side, row by row."""
    from PIL import Image

    width, height = images[0].size
    sheet = Image.new("RGB", (width * columns, height * (len(images) // columns)))
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * width, index // columns * height))
    return sheet


def generated_images(job: Job, out: Path) -> list[Image.Image]:
    """Return the images of a generate job, prompt by prompt, seed by seed."""
    from PIL import Image

    result = job.result(out)
    with Image.open(job.folder(out) / str(result["file"])) as file:
        sheet = file.convert("RGB")
    side = int(str(result["side"]))
    corners = [(x, y) for y in range(0, sheet.height, side) for x in range(0, sheet.width, side)]
    return [sheet.crop((x, y, x + side, y + side)) for x, y in corners]
