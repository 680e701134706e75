"""Small images on which taggers and scorers are checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

SIZES = ((64, 48), (31, 57), (40, 40))  # width, height


def small_images(seed: int = 0) -> list[Image]:
    """Return images (RGB) of several sizes: flat colours, a gradient, and noise."""
    from PIL import Image

    generator = np.random.default_rng(seed)
    flat = [
        Image.new("RGB", size, colour) for size, colour in zip(SIZES, ("#c81e28", "#f4f4f0", "#101418"), strict=True)
    ]
    width, height = SIZES[0]
    ramp = np.linspace(0, 255, width).round().astype(np.uint8)
    gradient = np.stack([np.tile(ramp, (height, 1)), np.tile(ramp[::-1], (height, 1)), np.full((height, width), 90)], 2)
    return [*flat, Image.fromarray(gradient.astype(np.uint8)), noise_image(generator, SIZES[1])]


def noise_image(generator: np.random.Generator, size: tuple[int, int]) -> Image:
    """Return uniform noise of a width and height."""
    from PIL import Image

    return Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), np.uint8))


def changed(images: Sequence[Image], before: Sequence[Image]) -> int | None:
    """Return the number, from 1, of the first image that differs from what it was, or None."""
    pairs = enumerate(zip(images, before, strict=True), 1)
    return next((number for number, (one, other) in pairs if one != other), None)
