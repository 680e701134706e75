"""Init images and masks with transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.families.commands import PROMPT, command, pixels, run


def made(base: Path, out: Path, *options: object) -> np.ndarray:
    run("generate", "--base", base, "--prompt", PROMPT, "--steps", 4, "--cfg", 2, "--out", out, *options)
    with Image.open(next(out.glob("*.png"))) as image:
        return pixels(image)


def test_less_strength_keeps_more_of_the_image(base: Path, two_images: Path, tmp_path: Path) -> None:
    image = two_images / "red.png"
    weak = made(base, tmp_path / "weak", "--image", image, "--strength", 0.25)
    strong = made(base, tmp_path / "strong", "--image", image, "--strength", 1)
    whole = made(base, tmp_path / "whole")
    assert weak.shape == strong.shape == whole.shape == (32, 32, 3)
    assert (weak != strong).any()


def test_pixels_outside_a_mask_are_kept(base: Path, two_images: Path, tmp_path: Path) -> None:
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (0, 0, 16, 32))
    mask.save(tmp_path / "mask.png")
    image = two_images / "red.png"
    found = made(base, tmp_path / "out", "--image", image, "--mask", tmp_path / "mask.png", "--strength", 0.75)
    assert (found[:, 16:] == (220, 30, 30)).all()
    assert (found[:, :16] != (220, 30, 30)).any()


def test_a_controlnet_is_refused_in_one_line(
    base: Path, two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = "--controlnet", "emoji", "--control-image", two_images / "red.png", "--out", tmp_path / "out"
    assert command("generate", "--base", base, "--prompt", "x", *given) == 2
    assert capsys.readouterr().err.count("bwlab: error") == 1
