"""What one adapter changes, by kind, block and timestep."""

from __future__ import annotations

import pytest
import torch

from bwlab_analysis.activations.changes import (
    CHANGES,
    ActivationReport,
    activation_changes,
    changes,
    grams,
    self_similarity,
)
from bwlab_analysis.measures import PREDICTION
from tests.analysis.activations.conftest import World
from tests.analysis.random_adapters import random_adapter

H0 = torch.randn(2, 5, 7, 11, generator=torch.Generator().manual_seed(0))


def test_no_change_is_zero() -> None:
    assert changes(H0, H0) == pytest.approx(dict.fromkeys(CHANGES, 0.0), abs=1e-9)


def test_a_louder_image_changes_style_and_no_structure() -> None:
    found = changes(H0, 2 * H0)
    assert found["effect"] == pytest.approx(1)
    assert found["style"] == pytest.approx(3)
    assert found["structure"] == pytest.approx(0, abs=1e-6)
    assert found["representation"] == pytest.approx(0, abs=1e-9)


def test_shuffled_positions_change_structure_and_no_style() -> None:
    order = torch.randperm(77, generator=torch.Generator().manual_seed(1))
    moved = H0.flatten(2)[..., order].view_as(H0)
    found = changes(H0, moved)
    assert found["style"] == pytest.approx(0, abs=1e-6)
    assert found["structure"] > 0.1


def test_shapes_of_grams_and_similarities() -> None:
    assert grams(H0).shape == (2, 5, 5)
    assert self_similarity(H0).shape == (2, 49, 49)
    assert self_similarity(torch.randn(1, 3, 40, 48)).shape == (1, 256, 256)
    assert float(self_similarity(H0).abs().max()) <= 1 + 1e-6


@pytest.fixture(scope="module")
def report(world: World) -> ActivationReport:
    late = random_adapter(world.pipe.unet, "lora", "out2=2, out3=2", 5)
    return activation_changes(world.pipe, world.scheme, late, world.inputs, (700, 200), draws=2)


def test_a_late_adapter_changes_nothing_before_it(report: ActivationReport) -> None:
    assert report.changed_blocks == ("out2", "out3")
    assert report.at("out1", 700).measures["effect"].value == 0
    for block in ("out2", "out3", PREDICTION):
        for time in (700, 200):
            measured = report.at(block, time).measures["effect"]
            assert measured.value > 0
            assert measured.random is not None
            assert measured.random > 0


def test_every_block_and_timestep_is_there(report: ActivationReport) -> None:
    assert len(report.changes) == 10 * 2
    assert report.timesteps == (700, 200)


def test_pieces_count_by_their_latents(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three latents in pieces of two and of one: measures are means over latents, so the pieces must not show."""
    late = random_adapter(world.pipe.unet, "lora", "out2=2", 5)
    measured = []
    for rows in (6, 4):
        monkeypatch.setattr("bwlab_analysis.activations.passes.ROWS_AT_ONCE", rows)
        found = activation_changes(world.pipe, world.scheme, late, world.inputs, (700,), draws=0)
        places = [found.at(block, 700).measures for block in ("out2", PREDICTION)]
        measured.append([place[name].value for place in places for name in CHANGES])
    assert measured[1] == pytest.approx(measured[0], rel=1e-4)
