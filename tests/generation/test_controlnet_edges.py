"""Edge maps of images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bwlab.generation.controlnet import EDGE_MAPS, edge_map


def disc(mode: str = "RGB") -> Image.Image:
    background = (0, 0, 0, 0) if mode == "RGBA" else (255, 255, 255)
    image = Image.new(mode, (61, 53), background)
    ImageDraw.Draw(image).ellipse((13, 11, 43, 41), fill=(200, 30, 30, 255) if mode == "RGBA" else (200, 30, 30))
    return image


@pytest.mark.parametrize("kind", EDGE_MAPS)
def test_a_map_has_the_images_size_and_three_channels(kind: str) -> None:
    assert edge_map(disc(), kind).size == (61, 53)
    assert edge_map(disc(), kind).mode == "RGB"


def test_canny_draws_the_outline_and_nothing_else() -> None:
    lines = np.asarray(edge_map(disc(), "canny").convert("L"))
    assert set(np.unique(lines)) == {0, 255}
    rows, columns = np.nonzero(lines)
    radius = np.hypot(rows - 26, columns - 28)
    assert len(rows) > 60
    assert np.abs(radius - 15).max() < 3


def test_a_flat_image_has_no_edges() -> None:
    flat = Image.new("RGB", (17, 19), (90, 90, 90))
    assert all(np.asarray(edge_map(flat, kind)).max() == 0 for kind in ("canny", "lineart"))


def test_transparent_parts_count_as_white() -> None:
    assert np.array_equal(np.asarray(edge_map(disc("RGBA"), "lineart")), np.asarray(edge_map(disc(), "lineart")))


def test_none_leaves_an_image_as_it_is() -> None:
    assert np.array_equal(np.asarray(edge_map(disc(), "none")), np.asarray(disc()))
