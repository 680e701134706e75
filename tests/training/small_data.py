"""Small pictures to train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

WriteData = Callable[[Mapping[str, str | None]], Path]


def write_picture(path: Path, seed: int) -> None:
    """Write a 37 x 41 picture of two flat colours."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 3), dtype=np.uint8)
    pixels = np.repeat(colours, [17, 24], axis=0)[None].repeat(37, axis=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
