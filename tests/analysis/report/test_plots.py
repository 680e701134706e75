"""Figures of the reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from bwlab.errors import BwlabError
from bwlab_analysis.activations.changes import ActivationReport, BlockChange
from bwlab_analysis.activations.interaction import BlockEffects, InteractionReport
from bwlab_analysis.fidelity.scores import BlockProfile
from bwlab_analysis.measures import Interval, Measured
from bwlab_analysis.report.plots import plot_activations, plot_interaction, plot_profiles


def heights(figure: object) -> list[float]:
    return [round(bar.get_height(), 6) for bar in figure.axes[0].patches]  # type: ignore[attr-defined]


def test_bars_are_the_measures(tmp_path: Path) -> None:
    kept = {"in0": 0.9, "out3": 0.2}
    places = tuple(
        BlockEffects(block, "all", {"retention_a": Measured(value, 0.97, 0.01), "retention_b": None})
        for block, value in kept.items()
    )
    report = InteractionReport("made up", 1, 2, (500,), (*places, BlockEffects("in0", 500, {})), ())
    figure = plot_interaction(report)
    assert heights(figure) == [0.9, 0.2, 0.0, 0.0]
    figure.savefig(tmp_path / "bars.png")
    assert (tmp_path / "bars.png").stat().st_size > 1000


def test_a_heatmap_has_a_row_for_each_block() -> None:
    changes = tuple(
        BlockChange(block, time, {"effect": Measured(value + time)})
        for block, value in (("in0", 0.1), ("mid", 0.2))
        for time in (700, 200)
    )
    report = ActivationReport("made up", 1, 0, (700, 200), ("in0",), changes)
    drawn = plot_activations(report).axes[0].images[0].get_array()
    assert drawn is not None
    assert drawn.shape == (2, 2)
    assert drawn[1][0] == pytest.approx(700.2)
    with pytest.raises(BwlabError, match="Choose from effect"):
        plot_activations(report, "efect")


def test_profiles_show_their_intervals() -> None:
    interval = {"style": Interval(0.3, 0.1, 0.6)}
    profiles = [BlockProfile("style", "in0", interval, interval)]
    assert heights(plot_profiles(profiles, "style", "style")) == [0.3, 0.3]
    with pytest.raises(BwlabError, match="identity adapter"):
        plot_profiles(profiles, "style", "identity")
