"""A small emoji world drawn here, so that the build runs without npm."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bwlab_emoji import build, dit
from bwlab_emoji.art import Art, MoreArt
from bwlab_emoji.icon_sets import ICON_SETS
from bwlab_emoji.unet import DenoiserTraining
from bwlab_emoji.world import BACKGROUNDS, HELD_OUT


@pytest.fixture(scope="session")
def small_art() -> Art:
    """Return the held-out identities and three others, each a rectangle of its own place and colour in every set."""
    names = tuple(sorted((*HELD_OUT, "tomato", "rat", "tiger")))
    rng = np.random.default_rng(3)
    pixels = np.zeros((len(names), len(ICON_SETS), 64, 64, 4), dtype=np.uint8)
    for name in range(len(names)):
        top, left = rng.integers(5, 25, size=2)
        for style in range(len(ICON_SETS)):
            pixels[name, style, top : top + 29, left : left + 23] = (*rng.integers(0, 256, size=3), 255)
    return Art(names, pixels)


@pytest.fixture(scope="session")
def more_art(small_art: Art) -> MoreArt:
    """Two further identities, one of them missing in three of the eight shippable sets."""
    drawn = np.ones((2, 8), dtype=np.bool_)
    drawn[1, :3] = False
    pixels = small_art.pixels[:2, :8].copy() * drawn[:, :, None, None, None]
    return MoreArt(("lobster", "lime"), pixels, drawn)


@pytest.fixture
def work(small_art: Art, more_art: MoreArt, tmp_path: Path) -> Path:
    """Return a work folder whose art is rendered already."""
    folder = tmp_path / "work"
    folder.mkdir()
    np.savez_compressed(folder / "art.npz", names=np.array(small_art.names), pixels=small_art.pixels)
    np.savez_compressed(
        folder / "more-art.npz", names=np.array(more_art.names), pixels=more_art.pixels, drawn=more_art.drawn
    )
    return folder


@pytest.fixture
def little_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have builds train on two images at a time, over two backgrounds."""
    monkeypatch.setattr(build, "DenoiserTraining", partial(DenoiserTraining, batch=2))
    monkeypatch.setattr(dit, "TransformerTraining", partial(dit.TransformerTraining, batch=2))
    monkeypatch.setattr(build, "BACKGROUNDS", {name: BACKGROUNDS[name] for name in ("white", "blue")})
