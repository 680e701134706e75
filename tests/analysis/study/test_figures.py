"""Figures are drawn, as large as they are to be."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bwlab_analysis.study.figures import carried_by_blocks, figures_of, identity_and_style, labelled, png, predictions
from bwlab_analysis.study.statistics import Shares
from bwlab_analysis.study.tables import profiles, validation
from tests.analysis.study.synthetic import Kept, made
from tests.analysis.study.test_tables import results


def test_every_figure_is_drawn() -> None:
    found = figures_of(results())
    predicted = {"what predicts the loss of identity", "what predicts the loss of style"}
    assert set(found) == {"identity and style", "what each block carries"} | predicted
    for name, image in found.items():
        assert image.mode == "RGB", name
        assert min(image.size) > 150, name
        assert np.asarray(image).std() > 5, name
        with Image.open(io.BytesIO(png(image))) as again:
            assert np.array_equal(np.asarray(again), np.asarray(image))


def test_there_are_only_figures_of_what_there_is() -> None:
    assert set(figures_of(made({"both": Kept(0.5, 0.5)}))) == {"identity and style"}


def test_compositions_are_points_at_their_shares() -> None:
    (axes,) = identity_and_style(Shares(results())).axes
    containers: Any = axes.containers
    points = {one.get_label(): one.lines[0].get_xydata()[0] for one in containers}
    assert set(points) == {"base", "both", "id", "style", "half", "noisy"}, "neither sweeps nor controls"
    assert points["half"] == pytest.approx([0.4, 0.25])


def test_bars_are_shares_by_block() -> None:
    panels = carried_by_blocks(profiles(Shares(results()))).axes
    assert [panel.get_title() for panel in panels] == ["id\nid only", "both\nid without"]
    identity, style = panels[1].containers
    assert [bar.get_height() for bar in identity] == pytest.approx([0.6, 0.7])
    assert [bar.get_height() for bar in style] == pytest.approx([0.6, 0.6])


def test_predictions_are_the_measures_that_say_something() -> None:
    (axes,) = predictions(validation(Shares(results()), "identity")).axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names[0] == "ceiling"
    assert set(names[1:3]) == {"harm", "worth"}
    assert names[3:] == ["noise"]
    assert axes.get_xlim() == (-1, 1)


def test_images_with_their_names() -> None:
    red, blue = (Image.new("RGB", (20, 20), colour) for colour in ("red", "blue"))
    sheet = labelled({"a": [red, blue], "a name that is far longer than any other": [blue]})
    assert sheet.height == 40
    assert sheet.width > 2 * 20 + 200
    drawn = np.asarray(sheet)
    assert (drawn[:20, -40:-20] == (255, 0, 0)).all()
    assert (drawn[:20, -20:] == (0, 0, 255)).all()
    assert (drawn[20:, -40:-20] == (0, 0, 255)).all()
    assert (drawn[20:, -20:] == 255).all()
    assert (drawn[:, :-40] < 128).any(), "names are written"
