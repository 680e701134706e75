"""The styles that are made by rule: what each does to a drawing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bwlab.benchmark import load_benchmark
from bwlab_emoji.icon_sets import ICON_SETS, Drawings
from bwlab_emoji.made_styles import MADE_STYLES, MadeStyle

DARK_IN_LIGHT = '<rect x="2" y="2" width="12" height="12" fill="#ffd08a"/><rect x="6" y="6" width="4" height="4"/>'
BY_NAME = {made.style: made for made in MADE_STYLES}


def drawings(folder: Path, body: str = DARK_IN_LIGHT) -> Drawings:
    """Return an icon set that draws a dark square in a light one, named `dot`."""
    path = folder / "node_modules" / "@iconify-json" / ICON_SETS[0].name / "icons.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"icons": {"dot": {"body": body}}, "width": 16, "height": 16}))
    return Drawings(folder, ICON_SETS[0])


def drawn(made: MadeStyle, folder: Path) -> npt.NDArray[np.int64]:
    return made.draw(drawings(folder), "dot").astype(np.int64)


@pytest.mark.parametrize("made", MADE_STYLES, ids=lambda made: made.style)
def test_the_ground_stays_white_and_the_drawing_does_not(made: MadeStyle, tmp_path: Path) -> None:
    image = drawn(made, tmp_path)
    assert image.shape == (64, 64, 3)
    assert (image[[0, 0, -1, -1, 0, 63], [0, -1, 0, -1, 32, 32]] == 255).all()
    assert (image != 255).any(-1).mean() > 0.1


def test_dusk_has_four_colours_from_dark_to_light(tmp_path: Path) -> None:
    image = drawn(BY_NAME["dusk"], tmp_path)
    assert image[32, 32].tolist() == [41, 26, 97]  # the dark square
    assert image[16, 32].tolist() == [255, 184, 115]  # the light one


def test_map_has_light_lines_on_blue(tmp_path: Path) -> None:
    image = drawn(BY_NAME["map"], tmp_path)
    blue = image[13, 13]
    assert blue[2] - blue[0] > 80
    assert image[25, 32].min() > 180  # where dark and light meet


def test_pencil_draws_dark_parts_denser(tmp_path: Path) -> None:
    image = drawn(BY_NAME["pencil"], tmp_path).mean(-1)
    assert image[28:36, 28:36].mean() + 30 < image[14:20, 14:20].mean()


def test_crayon_has_white_lines_on_a_dark_board(tmp_path: Path) -> None:
    image = drawn(BY_NAME["crayon"], tmp_path).mean(-1)
    assert image[29:35, 29:35].max() < 110
    assert image[24:27, 29:35].max() > 180


@pytest.mark.parametrize("made", MADE_STYLES, ids=lambda made: made.style)
def test_the_manifest_says_what_it_was_made_from(made: MadeStyle) -> None:
    styles = {style.style: style for style in load_benchmark().styles}
    entry, source = styles[made.style], styles[made.source]
    assert entry.made_from == made.source
    assert (entry.package, entry.version, entry.licence) == (source.package, source.version, source.licence)
