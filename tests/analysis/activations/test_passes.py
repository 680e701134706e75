"""A pass takes as many variants and latents at once as memory allows; what is found is the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from bwlab_analysis.activations import passes
from bwlab_analysis.activations.changes import activation_changes
from bwlab_analysis.activations.interaction import interaction
from bwlab_analysis.activations.losses import loss_interference
from bwlab_analysis.activations.passes import split_groups
from tests.analysis.activations.conftest import World

TIMES = (700, 200)


def assert_close(found: object, other: object) -> None:
    """Compare two reports number by number."""
    assert type(found) is type(other)
    if isinstance(found, float):
        assert found == pytest.approx(other, rel=1e-3, abs=1e-6, nan_ok=True)
    elif isinstance(found, dict):
        assert list(found) == list(other)  # type: ignore[call-overload]
        for key, value in found.items():
            assert_close(value, other[key])  # type: ignore[index]
    elif isinstance(found, tuple):
        for one, another in zip(found, other, strict=True):  # type: ignore[call-overload]
            assert_close(one, another)
    elif hasattr(found, "__dict__"):
        assert_close(vars(found), vars(other))
    else:
        assert found == other


def look(world: World) -> tuple[Any, Any]:
    """Return both reports of a pair; which blocks are to blame is not compared among the losses."""
    pair = world.pipe, world.scheme, world.a, world.b
    losses = loss_interference(*pair, world.inputs, timesteps=TIMES, draws=2)
    return interaction(*pair, world.inputs, TIMES, draws=2), replace(losses, blame=(), need=())


@pytest.fixture(scope="module")
def whole(world: World) -> tuple[Any, Any]:
    return look(world)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 7])
def test_portions_of_variants_find_the_same(
    world: World, whole: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(passes, "ROWS_AT_ONCE", rows)
    portioned = look(world)
    order = [sorted(one.blame, key=lambda blamed: (blamed.adapter, blamed.block)) for one in (whole[0], portioned[0])]
    assert_close(*map(tuple, order))
    assert_close(*(replace(one, blame=()) for one in (whole[0], portioned[0])))
    assert_close(whole[1], portioned[1])


def test_activations_in_portions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for rows in (5, 2):  # one latent at a time
        monkeypatch.setattr(passes, "ROWS_AT_ONCE", rows)
        found.append(activation_changes(world.pipe, world.scheme, world.a, world.inputs, TIMES, draws=3))
    assert_close(*found)


@pytest.mark.parametrize(("side", "rows"), [(8, 96), (512, 40), (4096, 1)])
def test_rows_are_bounded_by_what_activations_take(
    world: World, monkeypatch: pytest.MonkeyPatch, side: int, rows: int
) -> None:
    monkeypatch.setattr(passes, "BYTES_AT_ONCE", 40 * 100 * world.pipe.unet.config.block_out_channels[0] * 512**2 * 4)
    assert passes.rows_at_once(world.pipe, torch.zeros(1, 1, 1, 1).expand(1, 4, side, side)) == rows


def test_a_group_larger_than_a_portion_is_one() -> None:
    assert split_groups([("a", "b", "c"), ("d",)], 2) == [[("a", "b", "c")], [("d",)]]
