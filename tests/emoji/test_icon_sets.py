"""Icon sets: aliases, view boxes, backgrounds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bwlab.errors import BwlabError
from bwlab_emoji.icon_sets import ICON_SETS, Drawings, fetch_icon_sets, on_background


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    folder = tmp_path / "node_modules" / "@iconify-json" / ICON_SETS[0].name
    folder.mkdir(parents=True)
    body = '<rect x="2" y="0" width="8" height="20" fill="#00f"/>'
    data = {
        "prefix": "noto",
        "width": 20,
        "height": 20,
        "icons": {"bar": {"body": body}},
        "aliases": {"pole": {"parent": "bar"}, "post": {"parent": "pole"}},
    }
    (folder / "icons.json").write_text(json.dumps(data))
    return tmp_path


def test_an_alias_of_an_alias_draws_its_icon(packages: Path) -> None:
    drawings = Drawings(packages, ICON_SETS[0])
    assert drawings.names() == {"bar", "pole", "post"}
    assert np.array_equal(drawings.draw("post"), drawings.draw("bar"))


def test_the_view_box_fills_the_image_but_for_its_margin(packages: Path) -> None:
    drawn = Drawings(packages, ICON_SETS[0]).draw("bar", size=48, margin=4)
    columns = np.flatnonzero(drawn[..., 3].any(axis=0))
    rows = np.flatnonzero(drawn[..., 3].any(axis=1))
    assert (columns[0], columns[-1]) == (8, 23)
    assert (rows[0], rows[-1]) == (4, 43)
    assert drawn[20, 15].tolist() == [0, 0, 255, 255]


def test_half_transparent_paint_mixes_with_the_background() -> None:
    rgba = np.array([[[200, 0, 0, 128]]], dtype=np.uint8)
    assert on_background(rgba, (0, 100, 0))[0, 0].tolist() == [100, 50, 0]


def test_without_npm_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BwlabError, match=r"npm is not on PATH.*Install Node\.js"):
        fetch_icon_sets(tmp_path / "work")


def test_share_alike_art_is_never_trained_on() -> None:
    assert {icons.role for icons in ICON_SETS if "SA" in icons.licence} == {"benchmark-only"}
