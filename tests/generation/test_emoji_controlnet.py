"""The ControlNet that ships with the embedded base leads where things go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt

from bwlab.base.load import load_base
from bwlab.benchmark import load_benchmark
from bwlab.generation.controlnet import edge_map, read_controlnet_input
from bwlab.generation.sample import generate

IDENTITIES = ("fox", "pear", "owl")
PROMPTS = ("flat, tomato, white background", "noto, tomato, white background")


def lines_met(image: Image.Image, lines: Image.Image) -> float:
    """Return the share of the control's lines with an edge of the image within 2 pixels."""
    wanted = np.asarray(lines.convert("L")) > 0
    drawn = np.asarray(edge_map(image, "canny").convert("L")) > 0
    return float((distance_transform_edt(~drawn)[wanted] <= 2).mean())


def test_images_follow_lines_of_identities_that_nobody_trained_on(tmp_path: Path) -> None:
    pipe, benchmark = load_base("emoji"), load_benchmark()
    led, free = [], []
    unled = generate(pipe, PROMPTS, [0, 1], steps=10, cfg=3.0)
    for identity in IDENTITIES:
        shown = tmp_path / f"{identity}.png"
        benchmark.image(identity, "noto").save(shown)
        control = read_controlnet_input("emoji", shown, "canny", pipe)
        generated = generate(pipe, PROMPTS, [0, 1], steps=10, cfg=3.0, controlnet=control)
        led += [lines_met(image, control.image) for image in generated]
        free += [lines_met(image, control.image) for image in unled]
    assert np.mean(led) > np.mean(free) + 0.15
    assert np.mean(led) > 0.6


def test_it_is_for_the_embedded_base_only(tiny_pipeline: Path, tmp_path: Path) -> None:
    from bwlab.errors import BwlabError

    image = tmp_path / "white.png"
    Image.new("RGB", (8, 8), "white").save(image)
    with pytest.raises(BwlabError, match="another base"):
        read_controlnet_input("emoji", image, "none", load_base(tiny_pipeline))
